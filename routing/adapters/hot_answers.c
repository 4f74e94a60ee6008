/* The hot loop of the DNS server: answers the common query from what Python has answered before.
 *
 * It holds no zone and decides nothing: `hot_learn` is told the answers of the responder one by one, and a query that
 * is not common, not learnt or too much for its network is left to Python. Both give the same bytes to the same query.
 * Threads take turns by the lock of the table; nothing here allocates while it answers.
 */
#define _GNU_SOURCE
#include "hot_held.h"

#define UDP_SIZE 1232
#define UDP_SIZE_PLAIN 512
#define PARSED_MAX 16
#define ECS_V4_BYTES 11
#define NO_ENTRY 0u

enum { LEFT = 0, ANSWERED = 1, LIMITED = 2 };

void hot_time(struct hot *hot, uint32_t second, uint32_t cookie_time) {
    static const uint8_t version[4] = {1, 0, 0, 0};
    pthread_mutex_lock(&hot->lock);
    hot->second = second;
    memcpy(hot->cookie_head, version, 4);
    for (int i = 0; i < 4; i++) hot->cookie_head[4 + i] = (uint8_t)(cookie_time >> (24 - 8 * i));
    pthread_mutex_unlock(&hot->lock);
}

void hot_policy(struct hot *hot, uint32_t per_second, const uint8_t *secret) {
    pthread_mutex_lock(&hot->lock);
    hot->per_second = per_second;
    hot->cookies = secret != NULL;
    if (secret) memcpy(hot->secret, secret, sizeof hot->secret);
    pthread_mutex_unlock(&hot->lock);
}

const uint64_t *hot_rcodes(const struct hot *hot) { return hot->rcodes; }

struct query {
    const uint8_t *network; /* that of the client, as its subnet option tells it, or NULL */
    const uint8_t *client;  /* the client's cookie, or NULL */
    size_t limit, network_bytes;
    int head, dnssec_ok;
};

struct parsed {
    size_t end; /* behind the question; 0: the query is not a common one */
    size_t key_bytes;
    struct query q;
    uint64_t hash;
    uint8_t key[KEY_MAX_BYTES];
};

/* The network of a client subnet option (RFC 7871, section 6): an IPv4 /24 or an IPv6 /48 or /56. */
static int read_subnet(struct query *q, const uint8_t *p, size_t left) {
    if (left < 8 || q->network || p[0] || p[1] != 8 || p[2] || p[4] || p[7]) return 0;
    if (p[5] == 1 ? p[6] != 24 : p[5] != 2 || (p[6] != 48 && p[6] != 56)) return 0;
    size_t bytes = p[6] / 8u;
    if (p[3] != 4 + bytes || left < 8 + bytes) return 0;
    q->network = p + 8;
    q->network_bytes = bytes;
    return (int)(8 + bytes);
}

static int read_cookie(struct query *q, const uint8_t *p, size_t left) {
    if (left < 12 || q->client || p[0] || p[1] != 10 || p[2] || (p[3] != 8 && p[3] != 24)) return 0;
    if (left < 4u + p[3]) return 0;
    q->client = p + 4;
    return 4 + p[3];
}

/* OPT and nothing else, with at most a client subnet and a cookie in it. 0 when the query is not so common. */
static int read_opt(const struct hot *hot, struct query *q, const uint8_t *opt, size_t bytes) {
    if (bytes < 11 || opt[0] || opt[1] || opt[2] != 41 || opt[6] || opt[7] & 0x40) return 0;
    size_t left = bytes - 11, size = (size_t)opt[3] << 8 | opt[4];
    if (((size_t)opt[9] << 8 | opt[10]) != left) return 0;
    const uint8_t *p = opt + 11;
    while (left) {
        int used = read_subnet(q, p, left);
        if (!used && hot->cookies) used = read_cookie(q, p, left);
        if (!used) return 0;
        p += used; left -= (size_t)used;
    }
    q->dnssec_ok = opt[7] >> 7;
    q->limit = size < UDP_SIZE_PLAIN ? UDP_SIZE_PLAIN : size > UDP_SIZE ? UDP_SIZE : size;
    return 1;
}

/* Lower-case name and type of the question; the offset behind it, or 0. */
static size_t read_question(const uint8_t *data, size_t bytes, uint8_t *key, size_t *key_bytes) {
    size_t at = 12, used = 0;
    for (;;) {
        if (at >= bytes) return 0;
        uint8_t label = data[at];
        if (label > 63 || used + label + 1 > NAME_MAX_BYTES || at + label + 5 > bytes) return 0;
        key[used++] = label; at++;
        if (!label) break;
        for (uint8_t i = 0; i < label; i++, at++) {
            uint8_t c = data[at];
            key[used++] = c >= 'A' && c <= 'Z' ? c | 32 : c;
        }
    }
    if (at + 4 > bytes || data[at + 2] || data[at + 3] != 1) return 0;
    key[used++] = data[at]; key[used++] = data[at + 1];
    *key_bytes = used;
    return at + 4;
}

static size_t options_bytes(const struct query *q) {
    return (q->network ? 8 + q->network_bytes : 0) + (q->client ? 28u : 0u);
}

static size_t write_ending(const struct hot *hot, const struct query *q, uint8_t *out, const uint8_t *source,
                           size_t source_bytes, uint8_t scope) {
    size_t options = options_bytes(q);
    uint8_t *start = out;
    const uint8_t opt[9] = {0, 0, 41, UDP_SIZE >> 8, UDP_SIZE & 255, 0, 0, q->dnssec_ok ? 0x80 : 0, 0};
    memcpy(out, opt, 9); out += 9;
    *out++ = (uint8_t)(options >> 8); *out++ = (uint8_t)options;
    if (q->network) {
        /* As the query has it, but for the scope. */
        memcpy(out, q->network - 8, 8); out[7] = scope; out += 8;
        memcpy(out, q->network, q->network_bytes); out += q->network_bytes;
    }
    if (q->client) {
        const uint8_t code[4] = {0, 10, 0, 24};
        uint8_t message[32];
        memcpy(message, q->client, 8);
        memcpy(message + 8, hot->cookie_head, 8);
        memcpy(message + 16, source, source_bytes);
        uint64_t hash = siphash(hot->secret, message, 16 + source_bytes);
        memcpy(out, code, 4); out += 4;
        memcpy(out, message, 16); out += 16;
        for (int i = 0; i < 8; i++) *out++ = (uint8_t)(hash >> (8 * i));
    }
    return (size_t)(out - start);
}

static int is_v4(const struct query *q, size_t source_bytes) { return (q->network ? q->network_bytes : source_bytes - 1) == 3; }

/* What is found in a query before anything is looked up: memory that is far away is on its way meanwhile. */
static void parse_one(const struct hot *hot, struct parsed *p, const uint8_t *data, size_t bytes, const uint8_t *source,
                      size_t source_bytes) {
    p->end = 0;
    if (bytes < 17 || data[2] > 1 || (data[3] & ~0x30) || data[4] || data[5] != 1 || data[6] || data[7] || data[8] ||
        data[9] || data[10] || data[11] > 1)
        return;
    size_t end = read_question(data, bytes, p->key, &p->key_bytes);
    if (!end) return;
    p->q = (struct query){.limit = UDP_SIZE_PLAIN, .head = 2 * data[11] + data[2]};
    if (data[11] ? !read_opt(hot, &p->q, data + end, bytes - end) : bytes != end) return;
    p->hash = hash_bytes(hot->seed, p->key, p->key_bytes);
    __builtin_prefetch(hot->slots + (p->hash & hot->mask));
    const uint8_t *place = p->q.network ? p->q.network : source;
    if (hot->places && is_v4(&p->q, source_bytes)) __builtin_prefetch(hot->places + (place[0] << 8 | place[1]));
    p->end = end;
}

/* What the map holds for a client: its bucket + 1 and the scope above that; NO_ENTRY when that is not known. */
static uint32_t place_of(const struct hot *hot, const uint8_t *place, int v4) {
    if (!hot->places) return 1;
    uint32_t entry = NO_ENTRY;
    if (v4) {
        entry = hot->places[place[0] << 8 | place[1]];
        if (entry & PAGE) entry = hot->places[(entry & ~PAGE) + place[2]];
    } else {
        uint64_t network = network_v6(place);
        const struct place_v6 *known = room_v6(hot, network);
        if (known->network == network && known->era == hot->era) entry = known->entry;
    }
    return (entry & 0xFFFF) == MIXED ? NO_ENTRY : entry;
}

/* The answer for a client, and the scope in which it holds; NULL when it was not learnt. */
static const struct answer *find_for(const struct hot *hot, const struct name *n, const struct query *q,
                                     const uint8_t *source, size_t source_bytes, uint8_t *scope) {
    const uint8_t *place = q->network ? q->network : source;
    int v4 = is_v4(q, source_bytes);
    uint32_t bucket = 0, slot = 0, bits = 0;
    if (n->by & BY_PLACE) {
        uint32_t entry = place_of(hot, place, v4);
        if (!entry) return NULL;
        bucket = (entry & 0xFFFF) - 1u;
        bits = entry >> 16;
    }
    if (n->by & BY_SLOT) {
        slot = slot_of(place, v4 ? 3 : 6);
        if (bits < (v4 ? 24 : 48)) bits = v4 ? 24 : 48;
    }
    *scope = (uint8_t)bits;
    return find_answer(n, variant_of(n->by, bucket, slot, (uint32_t)q->dnssec_ok));
}

/* One query that was parsed: the number of bytes of its answer, which goes to `out`; `*what` says what became of it. */
static size_t answer_one(struct hot *hot, const struct parsed *p, const uint8_t *data, const uint8_t *source,
                         size_t source_bytes, uint8_t *out, uint8_t *what) {
    const struct query *q = &p->q;
    size_t end = p->end;
    *what = LEFT;
    if (!end) return 0;
    const struct name *n = find_name(hot, p->hash, p->key, p->key_bytes);
    if (!n) return 0;
    uint8_t scope = 0;
    const struct answer *a = find_for(hot, n, q, source, source_bytes, &scope);
    if (!a) return 0;
    uint32_t turn = data[1] % a->bodies;
    size_t body_bytes = a->starts[turn + 1] - a->starts[turn];
    size_t ending = data[11] ? 11u + options_bytes(q) : 0u;
    if (end + body_bytes + ending > q->limit) return 0;
    if (hot->per_second && is_limited(hot, source, source_bytes, n->name_hash, a->limited_as)) {
        *what = LIMITED;
        return 0;
    }
    memcpy(out, data, 2);
    memcpy(out + 2, a->heads + q->head * HEAD_BYTES, HEAD_BYTES);
    memcpy(out + 12, data + 12, end - 12);
    memcpy(out + end, a->body + a->starts[turn], body_bytes);
    size_t size = end + body_bytes;
    if (data[11]) size += write_ending(hot, q, out + size, source, source_bytes, scope);
    hot->rcodes[out[3] & 15]++;
    *what = ANSWERED;
    return size;
}

/* A batch: query i is at queries + i * slot_bytes and has sizes[i * sizes_step] bytes, its source is at
 * sources + i * source_step. Answers go to answers + i * slot_bytes, their sizes to out_sizes[i * out_step], and what
 * became of each to whats[i]. How many were not answered. The caller has the lock, or is alone. */
uint32_t hot_answer(struct hot *hot, uint32_t count, const uint8_t *queries, const uint32_t *sizes, uint32_t sizes_step,
                    const uint8_t *sources, uint32_t source_step, uint32_t source_bytes, uint8_t *answers,
                    uint32_t slot_bytes, uint64_t *out_sizes, uint32_t out_step, uint8_t *whats) {
    struct parsed parsed[PARSED_MAX];
    uint32_t left = 0;
    for (uint32_t first = 0; first < count; first += PARSED_MAX) {
        uint32_t end = count - first < PARSED_MAX ? count : first + PARSED_MAX;
        for (uint32_t i = first; i < end; i++)
            parse_one(hot, parsed + (i - first), queries + (size_t)i * slot_bytes, sizes[(size_t)i * sizes_step],
                      sources + (size_t)i * source_step, source_bytes);
        for (uint32_t i = first; i < end; i++) {
            size_t size = answer_one(hot, parsed + (i - first), queries + (size_t)i * slot_bytes,
                                     sources + (size_t)i * source_step, source_bytes,
                                     answers + (size_t)i * slot_bytes, whats + i);
            if (size) out_sizes[(size_t)i * out_step] = size;
            else left++;
        }
    }
    return left;
}

#ifdef __linux__
#include "hot_loop.h"
#endif
