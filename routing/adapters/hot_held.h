/* What the hot loop holds: answers that it was taught, where clients are, how many like answers networks have had.
 *
 * Included by hot_answers.c alone. A name and type is one `struct name`; for each kind of client that gets another
 * answer (by its bucket, its slot, its DO bit) there is a `struct answer`. Nothing here allocates but what learns.
 */
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define NAME_MAX_BYTES 255
#define KEY_MAX_BYTES 260
#define HEAD_BYTES 10
#define LIMIT_SLOTS (1u << 17)
#define PROBES 8
#define RCODES 16
#define PLACES_V6 (1u << 16)
#define PAGE 0x80000000u
#define MIXED 0xFFFFu
#define SLOTS 256
#define HELD_BYTES_MAX ((size_t)256 << 20)

enum { BY_PLACE = 1, BY_SLOT = 2, BY_DNSSEC = 4 };

struct answer {
    uint32_t variant;
    uint32_t bodies;
    uint32_t limited_as;    /* 0: by name, else by this rcode */
    const uint8_t *heads;   /* 4 x HEAD_BYTES */
    const uint32_t *starts; /* bodies + 1 offsets into body */
    const uint8_t *body;
};

struct name {
    struct name *next;
    uint64_t hash, name_hash;
    struct answer **answers; /* mask + 1 of them, by variant, with open addressing */
    uint32_t count, mask;
    uint16_t key_bytes;
    uint8_t by;
    uint8_t key[];
};

struct limit {
    uint64_t key;
    uint32_t second;
    uint32_t count;
};

struct place_v6 {
    uint64_t network; /* its first six bytes */
    uint32_t entry, era;
};

struct hot {
    pthread_mutex_t lock; /* over all that follows */
    struct name **slots;
    uint32_t mask, held, held_max;
    size_t held_bytes;
    uint64_t emptied_ms; /* when all was forgotten last */
    const uint32_t *places; /* by /16, and behind them pages by /24; NULL: every place is alike */
    struct place_v6 *places_v6;
    uint32_t era; /* of the map: what was learnt of IPv6 networks in an earlier one counts no more */
    struct limit *limits;
    uint32_t per_second, second;
    uint8_t secret[16], cookie_head[8];
    int cookies;
    uint64_t seed;
    uint64_t rcodes[RCODES];
};

static inline uint64_t rotate(uint64_t x, int by) { return x << by | x >> (64 - by); }

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

/* CRC-32 as zlib has it, its last byte: the slot of a client network. */
static uint32_t slot_of(const uint8_t *network, size_t bytes) {
    uint32_t crc = 0xFFFFFFFFu;
    while (bytes--) {
        crc ^= *network++;
        for (int i = 0; i < 8; i++) crc = crc >> 1 ^ (0xEDB88320u & -(crc & 1u));
    }
    return ~crc & (SLOTS - 1);
}

static uint64_t now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static void free_names(struct name **slots, uint32_t mask) {
    for (uint32_t i = 0; i <= mask; i++) {
        for (struct name *n = slots[i], *next; n; n = next) {
            next = n->next;
            for (uint32_t j = 0; j <= n->mask; j++) free(n->answers[j]);
            free(n->answers);
            free(n);
        }
        slots[i] = NULL;
    }
}

/* Empties the table; what it held is left to the caller, for to free it takes its time, unless there is no memory for
 * new slots. */
static struct name **emptied(struct hot *hot) {
    hot->emptied_ms = now_ms();
    if (!hot->held) return NULL;
    hot->held = 0;
    hot->held_bytes = 0;
    struct name **old = hot->slots, **new = calloc(hot->mask + 1u, sizeof *new);
    if (new) {
        hot->slots = new;
        return old;
    }
    free_names(old, hot->mask);
    return NULL;
}

static void free_old(struct name **old, uint32_t mask) {
    if (old) free_names(old, mask);
    free(old);
}

void hot_free(struct hot *hot) {
    free_old(hot->slots, hot->mask);
    free(hot->limits);
    free(hot->places_v6);
    pthread_mutex_destroy(&hot->lock);
    free(hot);
}

struct hot *hot_new(uint32_t held_max, uint64_t seed) {
    uint32_t size = 1024;
    while (size < held_max * 2 && size < (1u << 22)) size *= 2;
    struct hot *hot = calloc(1, sizeof *hot);
    if (!hot) return NULL;
    pthread_mutex_init(&hot->lock, NULL);
    hot->slots = calloc(size, sizeof *hot->slots);
    hot->limits = calloc(LIMIT_SLOTS, sizeof *hot->limits);
    hot->places_v6 = calloc(PLACES_V6, sizeof *hot->places_v6);
    hot->mask = size - 1;
    hot->held_max = held_max;
    hot->seed = seed;
    hot->era = 1;
    if (hot->slots && hot->limits && hot->places_v6) return hot;
    hot_free(hot);
    return NULL;
}

/* Forgets all, and goes by this map from now on; what was learnt of IPv6 networks counts no more. */
void hot_forget(struct hot *hot, const uint32_t *places) {
    pthread_mutex_lock(&hot->lock);
    struct name **old = emptied(hot);
    hot->places = places;
    if (!++hot->era) {
        memset(hot->places_v6, 0, PLACES_V6 * sizeof *hot->places_v6);
        hot->era = 1;
    }
    pthread_mutex_unlock(&hot->lock);
    free_old(old, hot->mask);
}

static uint64_t network_v6(const uint8_t *address) {
    uint64_t x = 0;
    for (int i = 0; i < 6; i++) x = x << 8 | address[i];
    return x;
}

static struct place_v6 *room_v6(const struct hot *hot, uint64_t network) {
    uint64_t h = (network ^ hot->seed) * 0x9e3779b97f4a7c15ULL;
    return hot->places_v6 + (h >> 40 & (PLACES_V6 - 1));
}

/* All of an IPv6 /48 is at one place: `entry` is what a place of the map holds. */
void hot_learn_v6(struct hot *hot, const uint8_t *address, uint32_t entry) {
    uint64_t network = network_v6(address);
    pthread_mutex_lock(&hot->lock);
    *room_v6(hot, network) = (struct place_v6){network, entry, hot->era};
    pthread_mutex_unlock(&hot->lock);
}

static uint32_t variant_of(uint32_t by, uint32_t bucket, uint32_t slot, uint32_t dnssec_ok) {
    return (by & BY_PLACE ? bucket << 9 : 0) | (by & BY_SLOT ? slot << 1 : 0) | (by & BY_DNSSEC ? dnssec_ok : 0);
}

static uint32_t spread(uint32_t variant) { return (variant * 0x9e3779b1u) >> 7; }

static struct name *find_name(const struct hot *hot, uint64_t hash, const uint8_t *key, size_t key_bytes) {
    for (struct name *n = hot->slots[hash & hot->mask]; n; n = n->next)
        if (n->hash == hash && n->key_bytes == key_bytes && !memcmp(n->key, key, key_bytes)) return n;
    return NULL;
}

static struct answer *find_answer(const struct name *n, uint32_t variant) {
    for (uint32_t i = spread(variant);; i++) {
        struct answer *a = n->answers[i & n->mask];
        if (!a || a->variant == variant) return a;
    }
}

static struct name *add_name(struct hot *hot, uint64_t hash, const uint8_t *key, uint32_t key_bytes, uint32_t by) {
    struct name *n = malloc(sizeof *n + key_bytes);
    struct answer **answers = calloc(4, sizeof *answers);
    if (!n || !answers) { free(n); free(answers); return NULL; }
    *n = (struct name){.hash = hash, .answers = answers, .mask = 3, .key_bytes = (uint16_t)key_bytes, .by = (uint8_t)by};
    /* A name is limited as one, whatever the type. */
    n->name_hash = hash_bytes(hot->seed, key, key_bytes - 2);
    memcpy(n->key, key, key_bytes);
    n->next = hot->slots[hash & hot->mask];
    hot->slots[hash & hot->mask] = n;
    return n;
}

/* Room for one more, so that at least half of all room stays empty. */
static int widen(struct name *n) {
    if (2 * (n->count + 1) <= n->mask + 1) return 1;
    uint32_t mask = 2 * n->mask + 1;
    struct answer **wider = calloc(mask + 1u, sizeof *wider);
    if (!wider) return 0;
    for (uint32_t i = 0; i <= n->mask; i++) {
        if (!n->answers[i]) continue;
        uint32_t at = spread(n->answers[i]->variant);
        while (wider[at & mask]) at++;
        wider[at & mask] = n->answers[i];
    }
    free(n->answers);
    n->answers = wider;
    n->mask = mask;
    return 1;
}

static int take(struct hot *hot, const uint8_t *key, uint32_t key_bytes, uint32_t by, uint32_t variant,
                struct answer *a, size_t bytes) {
    uint64_t hash = hash_bytes(hot->seed, key, key_bytes);
    struct name *n = find_name(hot, hash, key, key_bytes);
    if (n && (n->by != by || find_answer(n, variant))) return 0;
    if (!n && !(n = add_name(hot, hash, key, key_bytes, by))) return 0;
    if (!widen(n)) return 0;
    uint32_t at = spread(variant);
    while (n->answers[at & n->mask]) at++;
    n->answers[at & n->mask] = a;
    n->count++;
    hot->held_bytes += bytes;
    return 1;
}

/* Takes an answer: its key (lower-case name and type), what it depends on (BY_…) and for which bucket, slot and DO bit
 * (RFC 3225) it is, its heads and bodies. 1 when it was taken; 0 when it was known, or there is no memory. */
int hot_learn(struct hot *hot, const uint8_t *key, uint32_t key_bytes, uint32_t by, uint32_t bucket, uint32_t slot,
              uint32_t dnssec_ok, const uint8_t *heads, uint32_t bodies, const uint32_t *sizes, const uint8_t *body) {
    if (key_bytes < 3 || key_bytes > KEY_MAX_BYTES || !bodies) return 0;
    size_t total = 0, starts_bytes = (bodies + 1) * sizeof(uint32_t);
    for (uint32_t i = 0; i < bodies; i++) total += sizes[i];
    size_t bytes = sizeof(struct answer) + starts_bytes + 4 * HEAD_BYTES + total;
    struct answer *a = malloc(bytes);
    if (!a) return 0;
    uint32_t variant = variant_of(by, bucket, slot, dnssec_ok);
    uint32_t *starts = (uint32_t *)(a + 1);
    uint8_t *room = (uint8_t *)starts + starts_bytes;
    *a = (struct answer){variant, bodies, heads[1] & 15, room, starts, room + 4 * HEAD_BYTES};
    starts[0] = 0;
    for (uint32_t i = 0; i < bodies; i++) starts[i + 1] = starts[i] + sizes[i];
    memcpy(room, heads, 4 * HEAD_BYTES);
    memcpy(room + 4 * HEAD_BYTES, body, total);
    pthread_mutex_lock(&hot->lock);
    struct name **old = NULL;
    if (hot->held >= hot->held_max || hot->held_bytes + bytes > HELD_BYTES_MAX) old = emptied(hot);
    /* Counted before it is taken: a name without an answer is to be freed as well. */
    hot->held++;
    int taken = take(hot, key, key_bytes, by, variant, a, bytes);
    pthread_mutex_unlock(&hot->lock);
    if (!taken) free(a);
    free_old(old, hot->mask);
    return taken;
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
