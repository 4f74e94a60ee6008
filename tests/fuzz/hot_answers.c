/* Drives the compiled DNS loop under sanitizers: `answers` feeds it queries and what is made of them by chance, each in
 * memory of exactly its size; `threads` has it serve a socket while another thread teaches it and has it forget.
 *
 * Usage: hot_answers MODE FILE SEED SECONDS. The file holds lessons and queries, as test_hot_answers.py writes them.
 */
#include "../../routing/adapters/hot_answers.c"

#include <arpa/inet.h>
#include <stdio.h>
#include <sys/eventfd.h>

#define ENOUGH 1000
#define ROOM UDP_SIZE
#define SLOT 2176
#define BATCH 8
#define WAITING 4

struct lesson { uint32_t key_bytes, by, bucket, slot, dnssec_ok, bodies; const uint8_t *key, *heads; uint32_t *sizes; const uint8_t *body; };
struct question { uint32_t bytes, source_bytes; const uint8_t *data, *source; };

static struct lesson *lessons;
static struct question *questions;
static uint32_t lesson_count, question_count;
static uint32_t *places;
static uint64_t state;

static uint32_t chance(uint32_t below) {
    state ^= state << 13; state ^= state >> 7; state ^= state << 17;
    return (uint32_t)(state >> 16) % below;
}

static uint32_t number(FILE *f) {
    uint32_t n = 0;
    if (fread(&n, 4, 1, f) != 1) exit(3);
    return n;
}

static uint8_t *bytes_of(FILE *f, uint32_t count) {
    uint8_t *p = malloc(count + !count);
    if (count && fread(p, 1, count, f) != count) exit(3);
    return p;
}

static void read_all(const char *path) {
    FILE *f = fopen(path, "rb");
    if (!f) exit(3);
    lesson_count = number(f);
    lessons = calloc(lesson_count, sizeof *lessons);
    for (uint32_t i = 0; i < lesson_count; i++) {
        struct lesson *l = lessons + i;
        l->key_bytes = number(f); l->by = number(f); l->bucket = number(f); l->slot = number(f); l->dnssec_ok = number(f);
        l->bodies = number(f);
        l->key = bytes_of(f, l->key_bytes);
        l->heads = bytes_of(f, 4 * HEAD_BYTES);
        l->sizes = (uint32_t *)bytes_of(f, 4 * l->bodies);
        uint32_t total = 0;
        for (uint32_t j = 0; j < l->bodies; j++) total += l->sizes[j];
        l->body = bytes_of(f, total);
    }
    question_count = number(f);
    questions = calloc(question_count, sizeof *questions);
    for (uint32_t i = 0; i < question_count; i++) {
        struct question *q = questions + i;
        q->bytes = number(f); q->source_bytes = number(f);
        q->data = bytes_of(f, q->bytes);
        q->source = bytes_of(f, q->source_bytes);
    }
    /* Every third /16 in one place, every third by /24, the others unknown. */
    places = calloc(65536 + 65536 * 64, sizeof *places);
    for (uint32_t i = 0, page = 65536; i < 65536; i++) {
        if (i % 3 == 0) places[i] = 16u << 16 | (1 + i % 4);
        if (i % 3 == 1 && page < 65536 * 60) {
            places[i] = PAGE + page;
            for (uint32_t j = 0; j < 256; j++) places[page++] = j % 5 ? 24u << 16 | (1 + j % 4) : j % 2 ? MIXED : 0;
        }
    }
    fclose(f);
}

static void teach(struct hot *hot, uint32_t i) {
    const struct lesson *l = lessons + i;
    hot_learn(hot, l->key, l->key_bytes, l->by, l->bucket, l->slot, l->dnssec_ok, l->heads, l->bodies, l->sizes, l->body);
}

/* A query with some bytes changed, and perhaps cut or longer. */
static uint8_t *changed(const struct question *q, uint32_t *bytes) {
    uint32_t more = chance(4) ? 0 : chance(40);
    uint8_t *p = malloc(q->bytes + more + 1);
    memcpy(p, q->data, q->bytes);
    for (uint32_t i = 0; i < more; i++) p[q->bytes + i] = (uint8_t)chance(256);
    *bytes = q->bytes + more;
    for (uint32_t n = chance(4); n && *bytes; n--) p[chance(*bytes)] = (uint8_t)(chance(3) ? chance(256) : chance(2) * 255);
    if (!chance(4)) *bytes = chance(*bytes + 1);
    return p;
}

/* Goes on for as long as was asked, and, where the machine is busy, until enough was done of both to say something. */
static int more(uint64_t until, uint64_t one, uint64_t other) {
    uint64_t now = now_ms();
    return now < until || (now < until + 30000 && (one <= ENOUGH || other <= ENOUGH));
}

static void answers(struct hot *hot, uint32_t seconds) {
    uint64_t until = now_ms() + 1000 * seconds, given = 0, asked = 0;
    while (more(until, asked, given)) {
        if (!chance(200)) hot_forget(hot, chance(3) ? places : NULL);
        if (!chance(50)) hot_policy(hot, chance(2) * 5, chance(2) ? (const uint8_t *)"0123456789abcdef" : NULL);
        if (!chance(20)) teach(hot, chance(lesson_count));
        const struct question *q = questions + chance(question_count);
        if (!chance(20) && q->source_bytes == 16) hot_learn_v6(hot, q->source, 48u << 16 | (1 + chance(4)));
        uint32_t bytes;
        uint8_t *mutated = changed(q, &bytes), *exact = malloc(bytes + !bytes), *out = malloc(ROOM), what;
        memcpy(exact, mutated, bytes);
        uint64_t size = 0;
        uint8_t *source = malloc(q->source_bytes);
        memcpy(source, q->source, q->source_bytes);
        hot_answer(hot, 1, exact, &bytes, 1, source, 16, q->source_bytes, out, ROOM, &size, 2, &what);
        asked++;
        if (what == ANSWERED) {
            given++;
            if (size < 12 || size > ROOM || memcmp(out, exact, 2) || !(out[2] & 0x80)) exit(4);
        }
        free(mutated); free(exact); free(out); free(source);
    }
    printf("%llu %llu\n", (unsigned long long)asked, (unsigned long long)given);
}

struct stage { struct hot_batch batch; struct mmsghdr in[BATCH], out[BATCH]; struct iovec parts[2][BATCH]; uint8_t queries[BATCH * SLOT], answers[BATCH * SLOT], names[BATCH * 32], controls[BATCH * 64], whats[BATCH]; uint64_t sizes[BATCH]; };

static void set_up(struct stage *s) {
    for (int i = 0; i < BATCH; i++) {
        s->parts[0][i] = (struct iovec){s->queries + i * SLOT, SLOT};
        s->parts[1][i] = (struct iovec){s->answers + i * SLOT, SLOT};
        s->in[i].msg_hdr = (struct msghdr){.msg_name = s->names + i * 32, .msg_namelen = 16, .msg_iov = s->parts[0] + i, .msg_iovlen = 1};
        s->out[i].msg_hdr = s->in[i].msg_hdr;
        s->out[i].msg_hdr.msg_iov = s->parts[1] + i;
    }
    s->batch = (struct hot_batch){s->in, s->out, s->queries, s->answers, s->names, s->controls, s->whats, &s->parts[1]->iov_len, 0, 0};
}

static void *serve(void *loop) { hot_run(loop); return NULL; }

static void threads(struct hot *hot, uint32_t seconds) {
    struct stage *stages = calloc(WAITING + 1, sizeof *stages);
    struct hot_batch *batches = calloc(WAITING + 1, sizeof *batches);
    for (int i = 0; i <= WAITING; i++) { set_up(stages + i); batches[i] = stages[i].batch; }
    int server = socket(AF_INET, SOCK_DGRAM, 0), client = socket(AF_INET, SOCK_DGRAM, 0);
    struct timeval patience = {0, 100000};
    setsockopt(server, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof at;
    if (bind(server, (struct sockaddr *)&at, size) || getsockname(server, (struct sockaddr *)&at, &size) || connect(client, (struct sockaddr *)&at, size)) exit(3);
    struct hot_loop loop = {.hot = hot, .receiving = batches + WAITING, .waiting = batches, .descriptor = server, .bell = eventfd(0, EFD_NONBLOCK), .batches = WAITING, .batch = BATCH, .slot_bytes = SLOT, .name_bytes = 16, .name_step = 32, .source_at = 4, .source_bytes = 4, .control_step = 64, .interface_at = 16, .out_step = sizeof(struct iovec) / 8};
    pthread_t thread;
    if (pthread_create(&thread, NULL, serve, &loop)) exit(3);
    uint64_t until = now_ms() + 1000 * seconds, heard = 0, taken = 0;
    while (more(until, taken, heard)) {
        for (int i = 0; i < 16; i++) {
            const struct question *q = questions + chance(question_count);
            if (q->bytes <= 1500) (void)!send(client, q->data, q->bytes, MSG_DONTWAIT);
        }
        teach(hot, chance(lesson_count));
        if (!chance(300)) hot_forget(hot, places);
        hot_time(hot, chance(10), chance(1000));
        for (int32_t k; chance(3) && (k = hot_take(&loop)) >= 0;) { taken += batches[k].count; hot_done(&loop); }
        uint8_t answer[4096];
        while (recv(client, answer, sizeof answer, MSG_DONTWAIT) > 0) heard++;
    }
    hot_stop(&loop);
    pthread_join(thread, NULL);
    printf("%llu %llu\n", (unsigned long long)taken, (unsigned long long)heard);
    free(stages); free(batches);
}

int main(int count, char **words) {
    if (count != 5) return 2;
    read_all(words[2]);
    state = strtoull(words[3], NULL, 10) * 0x9e3779b97f4a7c15ULL | 1;
    struct hot *hot = hot_new(64, state);
    hot_forget(hot, places);
    (words[1][0] == 'a' ? answers : threads)(hot, (uint32_t)atoi(words[4]));
    hot_free(hot);
    return 0;
}
