/* The hot loop of the DNS server: answers the common query from what Python has answered before.
 *
 * It holds no zone and decides nothing: `hot_learn` is told the answers of the responder one by one, and a query that
 * is not common, not learnt or too much for its network is left to Python. Both give the same bytes to the same query.
 * One thread uses a table at a time; nothing here allocates while it answers.
 */
#define _GNU_SOURCE
#ifdef __linux__
#include <sys/socket.h>
#endif
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define NAME_MAX_BYTES 255
#define KEY_MAX_BYTES 260
#define UDP_SIZE 1232
#define UDP_SIZE_PLAIN 512
#define HEAD_BYTES 10
#define MIXED 0xFFFF
#define LIMIT_SLOTS (1u << 17)
#define PROBES 8
#define RCODES 16
#define PARSED_MAX 16
#define NO_INDEX UINT32_MAX

enum { LEFT = 0, ANSWERED = 1, LIMITED = 2 };

struct answer {
    struct answer *next;
    uint64_t hash;
    uint32_t bucket;
    uint32_t bodies;
    uint32_t limited_as; /* 0: by name, else by this rcode */
    uint16_t key_bytes;
    uint8_t by_place;
    uint8_t dnssec; /* 0: for every query, 1: without the DO bit, 2: with it */
    const uint8_t *heads;   /* 4 x HEAD_BYTES */
    const uint32_t *starts; /* bodies + 1 offsets into body */
    const uint8_t *body;
    uint8_t key[];
};

struct limit {
    uint64_t key;
    uint32_t second;
    uint32_t count;
};

struct hot {
    struct answer **slots;
    uint32_t mask, held, held_max;
    const uint16_t *buckets; /* by /24; NULL: every place is alike */
    const uint8_t *scopes;
    struct limit *limits;
    uint32_t per_second, second;
    uint8_t secret[16], cookie_head[8];
    int cookies;
    uint64_t seed;
    uint64_t rcodes[RCODES];
};

static uint64_t rotate(uint64_t x, int by) { return x << by | x >> (64 - by); }

static uint64_t load64(const uint8_t *p) {
    uint64_t x = 0;
    for (int i = 7; i >= 0; i--) x = x << 8 | p[i];
    return x;
}

#define SIP_ROUND                                                                                                      \
    do {                                                                                                               \
        v0 += v1; v1 = rotate(v1, 13) ^ v0; v0 = rotate(v0, 32);                                                       \
        v2 += v3; v3 = rotate(v3, 16) ^ v2;                                                                            \
        v0 += v3; v3 = rotate(v3, 21) ^ v0;                                                                            \
        v2 += v1; v1 = rotate(v1, 17) ^ v2; v2 = rotate(v2, 32);                                                       \
    } while (0)

/* SipHash-2-4 (Aumasson, Bernstein 2012), as RFC 9018, section 4.4 asks for. */
static uint64_t siphash(const uint8_t *key, const uint8_t *message, size_t bytes) {
    uint64_t k0 = load64(key), k1 = load64(key + 8), last = (uint64_t)bytes << 56;
    uint64_t v0 = k0 ^ 0x736f6d6570736575ULL, v1 = k1 ^ 0x646f72616e646f6dULL;
    uint64_t v2 = k0 ^ 0x6c7967656e657261ULL, v3 = k1 ^ 0x7465646279746573ULL;
    size_t at = 0;
    for (; at + 8 <= bytes; at += 8) {
        uint64_t block = load64(message + at);
        v3 ^= block; SIP_ROUND; SIP_ROUND; v0 ^= block;
    }
    for (size_t i = 0; at + i < bytes; i++) last |= (uint64_t)message[at + i] << (8 * i);
    v3 ^= last; SIP_ROUND; SIP_ROUND; v0 ^= last;
    v2 ^= 0xff;
    SIP_ROUND; SIP_ROUND; SIP_ROUND; SIP_ROUND;
    return v0 ^ v1 ^ v2 ^ v3;
}

/* Keyed by a random seed, so that nobody can choose names that collide. */
static uint64_t hash_bytes(uint64_t seed, const uint8_t *p, size_t bytes) {
    uint64_t h = seed ^ bytes * 0x9e3779b97f4a7c15ULL;
    while (bytes >= 8) {
        uint64_t x;
        memcpy(&x, p, 8);
        h = rotate(h ^ x, 29) * 0xbf58476d1ce4e5b9ULL;
        p += 8; bytes -= 8;
    }
    for (size_t i = 0; i < bytes; i++) h = (h ^ p[i]) * 0x100000001b3ULL;
    h ^= h >> 32; h *= 0x94d049bb133111ebULL;
    return h ^ h >> 29;
}

struct hot *hot_new(uint32_t held_max, uint64_t seed) {
    uint32_t size = 1024;
    while (size < held_max * 2 && size < (1u << 22)) size *= 2;
    struct hot *hot = calloc(1, sizeof *hot);
    if (!hot) return NULL;
    hot->slots = calloc(size, sizeof *hot->slots);
    hot->limits = calloc(LIMIT_SLOTS, sizeof *hot->limits);
    if (!hot->slots || !hot->limits) { free(hot->slots); free(hot->limits); free(hot); return NULL; }
    hot->mask = size - 1;
    hot->held_max = held_max;
    hot->seed = seed;
    return hot;
}

void hot_forget(struct hot *hot) {
    for (uint32_t i = 0; i <= hot->mask; i++) {
        for (struct answer *a = hot->slots[i], *next; a; a = next) { next = a->next; free(a); }
        hot->slots[i] = NULL;
    }
    hot->held = 0;
}

void hot_free(struct hot *hot) {
    hot_forget(hot);
    free(hot->slots);
    free(hot->limits);
    free(hot);
}

void hot_places(struct hot *hot, const uint16_t *buckets, const uint8_t *scopes) {
    hot->buckets = buckets;
    hot->scopes = scopes;
}

void hot_time(struct hot *hot, uint32_t second, uint32_t cookie_time) {
    static const uint8_t version[4] = {1, 0, 0, 0};
    hot->second = second;
    memcpy(hot->cookie_head, version, 4);
    for (int i = 0; i < 4; i++) hot->cookie_head[4 + i] = (uint8_t)(cookie_time >> (24 - 8 * i));
}

void hot_policy(struct hot *hot, uint32_t per_second, const uint8_t *secret) {
    hot->per_second = per_second;
    hot->cookies = secret != NULL;
    if (secret) memcpy(hot->secret, secret, sizeof hot->secret);
}

const uint64_t *hot_rcodes(const struct hot *hot) { return hot->rcodes; }

static struct answer *find(const struct hot *hot, uint64_t hash, const uint8_t *key, size_t key_bytes, uint32_t bucket,
                           int dnssec_ok) {
    for (struct answer *a = hot->slots[hash & hot->mask]; a; a = a->next)
        if (a->hash == hash && a->key_bytes == key_bytes && !memcmp(a->key, key, key_bytes)) {
            if (a->dnssec && a->dnssec != 1 + dnssec_ok) continue;
            if (!a->by_place || a->bucket == bucket) return a;
        }
    return NULL;
}

/* Takes an answer: its key (lower-case name and type), whether it depends on the place and if so its bucket, whether it
 * depends on the DO bit (RFC 3225), its heads and bodies. 0 when it was taken or was known already, -1 when there is no memory. */
int hot_learn(struct hot *hot, const uint8_t *key, uint32_t key_bytes, uint32_t by_place, uint32_t bucket,
              uint32_t dnssec, const uint8_t *heads, uint32_t bodies, const uint32_t *sizes, const uint8_t *body) {
    uint64_t hash = hash_bytes(hot->seed, key, key_bytes);
    if (key_bytes > KEY_MAX_BYTES || !bodies) return -1;
    if (find(hot, hash, key, key_bytes, bucket, dnssec == 2)) return 0;
    if (hot->held >= hot->held_max) hot_forget(hot);
    uint32_t total = 0;
    for (uint32_t i = 0; i < bodies; i++) total += sizes[i];
    size_t key_room = (key_bytes + 7u) & ~7u;
    size_t starts_bytes = (bodies + 1) * sizeof(uint32_t);
    struct answer *a = malloc(sizeof *a + key_room + starts_bytes + 4 * HEAD_BYTES + total);
    if (!a) return -1;
    uint32_t *starts = (uint32_t *)(a->key + key_room);
    uint8_t *room = (uint8_t *)starts + starts_bytes;
    a->hash = hash; a->bucket = bucket; a->bodies = bodies; a->by_place = by_place != 0;
    a->dnssec = (uint8_t)dnssec;
    a->key_bytes = (uint16_t)key_bytes;
    a->limited_as = heads[1] & 15;
    memcpy(a->key, key, key_bytes);
    starts[0] = 0;
    for (uint32_t i = 0; i < bodies; i++) starts[i + 1] = starts[i] + sizes[i];
    memcpy(room, heads, 4 * HEAD_BYTES);
    memcpy(room + 4 * HEAD_BYTES, body, total);
    a->starts = starts; a->heads = room; a->body = room + 4 * HEAD_BYTES;
    a->next = hot->slots[hash & hot->mask];
    hot->slots[hash & hot->mask] = a;
    hot->held++;
    return 0;
}

/* Whether the network has had too many like answers within this second. */
static int is_limited(struct hot *hot, const uint8_t *source, size_t source_bytes, uint64_t name_hash, uint32_t rcode) {
    uint8_t network[12] = {0};
    memcpy(network, source, source_bytes == 4 ? 3 : 7);
    network[8] = (uint8_t)source_bytes;
    network[9] = (uint8_t)rcode;
    uint64_t key = hash_bytes(rcode ? hot->seed : hot->seed ^ name_hash, network, sizeof network);
    struct limit *oldest = NULL;
    for (uint32_t i = 0; i < PROBES; i++) {
        struct limit *limit = &hot->limits[(key + i) & (LIMIT_SLOTS - 1)];
        if (limit->second == hot->second && limit->key == key && limit->count)
            return ++limit->count > hot->per_second;
        if (!oldest && (limit->second != hot->second || !limit->count)) oldest = limit;
    }
    if (oldest) { oldest->key = key; oldest->second = hot->second; oldest->count = 1; }
    return 0;
}

struct query {
    const uint8_t *network; /* the three bytes of a client's /24, or NULL */
    const uint8_t *client;  /* the client's cookie, or NULL */
    size_t limit;
    int head, dnssec_ok, options;
};

struct parsed {
    size_t end; /* behind the question; 0: the query is not a common one */
    size_t key_bytes;
    struct query q;
    uint64_t hash;
    uint32_t index; /* of the place in the map, or NO_INDEX */
    uint8_t key[KEY_MAX_BYTES];
};

static int read_subnet(struct query *q, const uint8_t *p, size_t left) {
    static const uint8_t start[8] = {0, 8, 0, 7, 0, 1, 24, 0};
    if (left < 11 || q->network || memcmp(p, start, 8)) return 0;
    q->network = p + 8;
    return 11;
}

static int read_cookie(struct query *q, const uint8_t *p, size_t left) {
    if (left < 12 || q->client || p[0] || p[1] != 10 || p[2] || (p[3] != 8 && p[3] != 24)) return 0;
    if (left < 4u + p[3]) return 0;
    q->client = p + 4;
    return 4 + p[3];
}

/* OPT and nothing else, with at most an IPv4 /24 and a cookie in it. 0 when the query is not so common. */
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
        q->options = 1;
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

static size_t write_ending(const struct hot *hot, const struct query *q, uint8_t *out, const uint8_t *source,
                           size_t source_bytes, uint8_t scope) {
    size_t options = (q->network ? 11u : 0u) + (q->client ? 28u : 0u);
    uint8_t *start = out;
    const uint8_t opt[9] = {0, 0, 41, UDP_SIZE >> 8, UDP_SIZE & 255, 0, 0, q->dnssec_ok ? 0x80 : 0, 0};
    memcpy(out, opt, 9); out += 9;
    *out++ = (uint8_t)(options >> 8); *out++ = (uint8_t)options;
    if (q->network) {
        const uint8_t echo[8] = {0, 8, 0, 7, 0, 1, 24, scope};
        memcpy(out, echo, 8); out += 8;
        memcpy(out, q->network, 3); out += 3;
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
    p->index = NO_INDEX;
    const uint8_t *place = p->q.network ? p->q.network : source;
    if (hot->buckets && (p->q.network || source_bytes == 4)) {
        p->index = (uint32_t)place[0] << 16 | (uint32_t)place[1] << 8 | place[2];
        __builtin_prefetch(hot->buckets + p->index);
        __builtin_prefetch(hot->scopes + p->index);
    }
    p->end = end;
}

/* One query that was parsed: the number of bytes of its answer, which goes to `out`; `*what` says what became of it. */
static size_t answer_one(struct hot *hot, const struct parsed *p, const uint8_t *data, const uint8_t *source,
                         size_t source_bytes, uint8_t *out, uint8_t *what) {
    const struct query *q = &p->q;
    size_t end = p->end;
    *what = LEFT;
    if (!end) return 0;
    uint32_t bucket = 0;
    uint8_t scope = 0;
    if (hot->buckets) {
        uint16_t entry = p->index == NO_INDEX ? 0 : hot->buckets[p->index];
        if (entry && entry != MIXED) { bucket = entry - 1u; scope = hot->scopes[p->index]; }
        else bucket = UINT32_MAX;
    }
    const struct answer *a = find(hot, p->hash, p->key, p->key_bytes, bucket, q->dnssec_ok);
    if (!a) return 0;
    if (!a->by_place) scope = 0;
    uint32_t turn = data[1] % a->bodies;
    size_t body_bytes = a->starts[turn + 1] - a->starts[turn];
    size_t ending = data[11] ? 11u + (q->network ? 11u : 0u) + (q->client ? 28u : 0u) : 0u;
    if (end + body_bytes + ending > q->limit) return 0;
    if (hot->per_second) {
        /* A name is limited as one, whatever the type. */
        uint64_t name_hash = hash_bytes(hot->seed, p->key, p->key_bytes - 2);
        if (is_limited(hot, source, source_bytes, name_hash, a->limited_as)) { *what = LIMITED; return 0; }
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
 * became of each to whats[i]. How many were not answered. */
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

/* Memory and socket of a listener, laid out once by Python. The answer to query i goes out with message i, whose name
 * and control data are those that the query came with. */
struct hot_io {
    void *in, *out; /* batch x struct mmsghdr */
    const uint8_t *queries, *sources;
    uint8_t *answers, *controls, *whats;
    uint64_t *out_sizes;
    uint64_t dropped; /* answers that the kernel did not take */
    int32_t descriptor;
    uint32_t batch, slot_bytes, name_bytes, source_step, source_bytes;
    uint32_t control_bytes, control_step, interface_at, out_step;
    uint32_t left; /* of the batch that was left to Python, how many were not answered */
};

#ifdef __linux__
static void send_all(struct hot_io *io, uint32_t count) {
    struct mmsghdr *in = io->in, *out = io->out;
    if (io->control_bytes)
        for (uint32_t i = 0; i < count; i++) {
            /* Leaves by the address that was asked, on whatever way the routing table says. */
            memset(io->controls + (size_t)i * io->control_step + io->interface_at, 0, 4);
            out[i].msg_hdr.msg_controllen = in[i].msg_hdr.msg_controllen;
        }
    for (uint32_t at = 0; at < count;) {
        int sent = sendmmsg(io->descriptor, out + at, count - at, MSG_DONTWAIT);
        if (sent <= 0) { io->dropped++; sent = 1; }
        at += (uint32_t)sent;
    }
}
#endif

/* Answers what waits at a socket, up to so many batches. How many queries a batch has that is left to Python, its
 * answers not sent; 0 when nothing waits any more or all batches were answered. */
uint32_t hot_serve(struct hot *hot, struct hot_io *io, uint32_t batches) {
#ifdef __linux__
    struct mmsghdr *in = io->in;
    while (batches--) {
        for (uint32_t i = 0; i < io->batch; i++) {
            in[i].msg_hdr.msg_namelen = io->name_bytes;
            in[i].msg_hdr.msg_controllen = io->control_bytes;
            in[i].msg_hdr.msg_flags = 0;
        }
        int count = recvmmsg(io->descriptor, in, io->batch, MSG_DONTWAIT, NULL);
        if (count <= 0) return 0;
        io->left = hot_answer(hot, (uint32_t)count, io->queries, &in->msg_len, sizeof *in / sizeof in->msg_len,
                              io->sources, io->source_step, io->source_bytes, io->answers, io->slot_bytes,
                              io->out_sizes, io->out_step, io->whats);
        if (io->left) return (uint32_t)count;
        /* More may have come meanwhile: asking the socket costs less than waiting for it again. */
        send_all(io, (uint32_t)count);
    }
#endif
    (void)hot; (void)io; (void)batches;
    return 0;
}
