/* BLAKE2b of up to 64 bytes with or without a key, in one call (RFC 7693). */
#include "quick.h"

#define BLOCK 128
#define ROUNDS 12

static const uint64_t start[8] = {0x6a09e667f3bcc908, 0xbb67ae8584caa73b, 0x3c6ef372fe94f82b, 0xa54ff53a5f1d36f1,
                                  0x510e527fade682d1, 0x9b05688c2b3e6c1f, 0x1f83d9abfb41bd6b, 0x5be0cd19137e2179};
static const unsigned char order[ROUNDS][16] = {
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
    {11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4}, {7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8},
    {9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13}, {2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9},
    {12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11}, {13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10},
    {6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5}, {10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0},
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3}};

static inline uint64_t turned(uint64_t word, int bits) { return word >> bits | word << (64 - bits); }

static inline uint64_t word_at(const unsigned char *at) {
    uint64_t word;
    memcpy(&word, at, sizeof word);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    word = __builtin_bswap64(word);
#endif
    return word;
}

#define MIX(a, b, c, d, x, y)                                                                                          \
    do {                                                                                                               \
        v[a] += v[b] + (x);                                                                                            \
        v[d] = turned(v[d] ^ v[a], 32);                                                                                \
        v[c] += v[d];                                                                                                  \
        v[b] = turned(v[b] ^ v[c], 24);                                                                                \
        v[a] += v[b] + (y);                                                                                            \
        v[d] = turned(v[d] ^ v[a], 16);                                                                                \
        v[c] += v[d];                                                                                                  \
        v[b] = turned(v[b] ^ v[c], 63);                                                                                \
    } while (0)

/* Section 3.2; `seen` is how many bytes there were with this block. */
static void compress(uint64_t state[8], const unsigned char *block, uint64_t seen, int last) {
    uint64_t v[16], m[16];
    for (int i = 0; i < 16; i++)
        m[i] = word_at(block + 8 * i);
    for (int i = 0; i < 8; i++) {
        v[i] = state[i];
        v[i + 8] = start[i];
    }
    v[12] ^= seen;
    if (last)
        v[14] = ~v[14];
#pragma GCC unroll 12
    for (int round = 0; round < ROUNDS; round++) {
        const unsigned char *s = order[round];
        MIX(0, 4, 8, 12, m[s[0]], m[s[1]]);
        MIX(1, 5, 9, 13, m[s[2]], m[s[3]]);
        MIX(2, 6, 10, 14, m[s[4]], m[s[5]]);
        MIX(3, 7, 11, 15, m[s[6]], m[s[7]]);
        MIX(0, 5, 10, 15, m[s[8]], m[s[9]]);
        MIX(1, 6, 11, 12, m[s[10]], m[s[11]]);
        MIX(2, 7, 8, 13, m[s[12]], m[s[13]]);
        MIX(3, 4, 9, 14, m[s[14]], m[s[15]]);
    }
    for (int i = 0; i < 8; i++)
        state[i] ^= v[i] ^ v[i + 8];
}

void blake2b(unsigned char *digest, size_t digest_size, struct span key, struct span data) {
    uint64_t state[8], seen = 0;
    unsigned char block[BLOCK] = {0};
    memcpy(state, start, sizeof state);
    state[0] ^= 0x01010000 ^ (uint64_t)key.size << 8 ^ digest_size;
    if (key.size) {
        memcpy(block, key.at, key.size);
        seen = BLOCK;
        compress(state, block, seen, !data.size);
    }
    while (data.size > BLOCK) {
        seen += BLOCK;
        compress(state, data.at, seen, 0);
        data.at += BLOCK;
        data.size -= BLOCK;
    }
    if (data.size || !key.size) {
        memset(block, 0, sizeof block);
        if (data.size)
            memcpy(block, data.at, data.size);
        compress(state, block, seen + data.size, 1);
    }
    for (size_t i = 0; i < digest_size; i++)
        digest[i] = (unsigned char)(state[i / 8] >> 8 * (i % 8));
}
