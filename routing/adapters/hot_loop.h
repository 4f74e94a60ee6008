/* A thread that serves a socket without Python: it receives, answers what was learnt, and keeps the rest for Python.
 *
 * So Python at other work (a table to compile, a probe) does not delay what was learnt, and a flood of what was not takes
 * nothing from it: what finds no room to wait is dropped. Included by hot_answers.c alone.
 */
#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#define PAUSE_MS 1
#define FRESH_MS 2000

/* Memory of a batch, laid out once by Python. The answer to query i goes out with message i, whose name and control data
 * are those that the query came with. */
struct hot_batch {
    void *in, *out; /* messages */
    uint8_t *queries, *answers, *names, *controls, *whats;
    uint64_t *out_sizes;
    uint32_t count, reserved;
};

/* A socket and its batches: one to receive into, and a ring of those that wait for Python. `filling`, `taken` and `done`
 * count batches: what is between `done` and `taken` is with Python, what is up to `filling` waits. */
struct hot_loop {
    struct hot *hot;
    struct hot_batch *receiving, *waiting;
    uint64_t dropped; /* answers that the kernel did not take */
    uint64_t shed;    /* queries that found no room */
    int32_t descriptor, bell;
    uint32_t batches, batch, slot_bytes, name_bytes, name_step, source_at, source_bytes;
    uint32_t control_bytes, control_step, interface_at, out_step;
    uint32_t filling, taken, done, rung, stopping;
};

static int receive(const struct hot_loop *loop) {
    struct mmsghdr *in = loop->receiving->in;
    for (uint32_t i = 0; i < loop->batch; i++) {
        in[i].msg_hdr.msg_namelen = loop->name_bytes;
        in[i].msg_hdr.msg_controllen = loop->control_bytes;
        in[i].msg_hdr.msg_flags = 0;
    }
    return recvmmsg(loop->descriptor, in, loop->batch, MSG_WAITFORONE, NULL);
}

/* Sends the answers from one slot to before another. */
static void send_run(struct hot_loop *loop, struct hot_batch *batch, uint32_t at, uint32_t end) {
    struct mmsghdr *in = batch->in, *out = batch->out;
    if (loop->control_bytes)
        for (uint32_t i = at; i < end; i++) {
            /* Leaves by the address that was asked, on whatever way the routing table says. */
            memset(batch->controls + (size_t)i * loop->control_step + loop->interface_at, 0, 4);
            out[i].msg_hdr.msg_controllen = in[i].msg_hdr.msg_controllen;
        }
    while (at < end) {
        int sent = sendmmsg(loop->descriptor, out + at, end - at, MSG_DONTWAIT);
        if (sent <= 0) { __atomic_add_fetch(&loop->dropped, 1, __ATOMIC_RELAXED); sent = 1; }
        at += (uint32_t)sent;
    }
}

static uint32_t answer_batch(struct hot_loop *loop, struct hot_batch *batch, uint32_t at, uint32_t count) {
    const struct mmsghdr *in = batch->in;
    return hot_answer(loop->hot, count, batch->queries + (size_t)at * loop->slot_bytes, &in[at].msg_len,
                      sizeof *in / sizeof in->msg_len, batch->names + (size_t)at * loop->name_step + loop->source_at,
                      loop->name_step, loop->source_bytes, batch->answers + (size_t)at * loop->slot_bytes,
                      loop->slot_bytes, batch->out_sizes + (size_t)at * loop->out_step, loop->out_step,
                      batch->whats + at);
}

static struct hot_batch *waiting(const struct hot_loop *loop, uint32_t number) {
    return loop->waiting + number % loop->batches;
}

/* The batch that has room for one more, or NULL. */
static struct hot_batch *room(struct hot_loop *loop) {
    struct hot_batch *batch = waiting(loop, loop->filling);
    if (batch->count < loop->batch) return batch;
    if (loop->filling + 1 - loop->done >= loop->batches) return NULL;
    batch = waiting(loop, ++loop->filling);
    batch->count = 0;
    return batch;
}

static void keep_one(const struct hot_loop *loop, struct hot_batch *to, const struct hot_batch *from, uint32_t i) {
    uint32_t j = to->count++;
    struct mmsghdr *in = to->in;
    const struct mmsghdr *was = from->in;
    in[j].msg_len = was[i].msg_len;
    in[j].msg_hdr.msg_controllen = was[i].msg_hdr.msg_controllen;
    memcpy(to->queries + (size_t)j * loop->slot_bytes, from->queries + (size_t)i * loop->slot_bytes, was[i].msg_len);
    memcpy(to->names + (size_t)j * loop->name_step, from->names + (size_t)i * loop->name_step, loop->name_bytes);
    memcpy(to->controls + (size_t)j * loop->control_step, from->controls + (size_t)i * loop->control_step,
           loop->control_step);
    to->whats[j] = from->whats[i];
}

static int is_stopping(const struct hot_loop *loop) { return __atomic_load_n(&loop->stopping, __ATOMIC_ACQUIRE) != 0; }

static void ring(struct hot_loop *loop) {
    static const uint64_t one = 1;
    if (loop->rung) return;
    loop->rung = 1;
    if (write(loop->bell, &one, sizeof one) < 0) loop->rung = 0;
}

/* Keeps for Python what was not answered. Where there is no room it is dropped, but not shortly after all was forgotten:
 * then everything waits until the common answers are known again. */
static void keep(struct hot_loop *loop, struct hot_batch *from, uint32_t count) {
    struct hot *hot = loop->hot;
    pthread_mutex_lock(&hot->lock);
    for (uint32_t i = 0; i < count; i++) {
        if (from->whats[i] == ANSWERED) continue;
        struct hot_batch *to;
        while (!(to = room(loop)) && !is_stopping(loop) && now_ms() - hot->emptied_ms < FRESH_MS) {
            ring(loop);
            pthread_mutex_unlock(&hot->lock);
            poll(NULL, 0, PAUSE_MS);
            pthread_mutex_lock(&hot->lock);
        }
        if (to) keep_one(loop, to, from, i);
        else loop->shed++;
    }
    ring(loop);
    pthread_mutex_unlock(&hot->lock);
}

/* Serves until `hot_stop`. */
void hot_run(struct hot_loop *loop) {
    struct hot_batch *batch = loop->receiving;
    while (!is_stopping(loop)) {
        int count = receive(loop);
        if (count <= 0) {
            /* Nothing came for a while, or an ICMP error of an earlier answer. */
            if (count < 0 && errno != EAGAIN && errno != EINTR) poll(NULL, 0, PAUSE_MS);
            continue;
        }
        pthread_mutex_lock(&loop->hot->lock);
        uint32_t left = answer_batch(loop, batch, 0, (uint32_t)count), start = 0;
        pthread_mutex_unlock(&loop->hot->lock);
        for (uint32_t i = 0; left && i < (uint32_t)count; i++)
            if (batch->whats[i] != ANSWERED) {
                send_run(loop, batch, start, i);
                start = i + 1;
            }
        send_run(loop, batch, start, (uint32_t)count);
        if (left) keep(loop, batch, (uint32_t)count);
    }
}

/* Has `hot_run` return as soon as it looks. */
void hot_stop(struct hot_loop *loop) { __atomic_store_n(&loop->stopping, 1, __ATOMIC_RELEASE); }

/* The number of the batch that waits longest, for Python to answer, or -1; what was learnt meanwhile is answered in it.
 * The next is given out after `hot_done`. */
int32_t hot_take(struct hot_loop *loop) {
    pthread_mutex_lock(&loop->hot->lock);
    struct hot_batch *batch = waiting(loop, loop->taken);
    if (loop->taken == loop->filling) {
        if (!batch->count) {
            loop->rung = 0;
            pthread_mutex_unlock(&loop->hot->lock);
            return -1;
        }
        waiting(loop, ++loop->filling)->count = 0;
    }
    uint32_t number = loop->taken++ % loop->batches;
    for (uint32_t i = 0; i < batch->count; i++)
        if (batch->whats[i] == LEFT) answer_batch(loop, batch, i, 1);
    pthread_mutex_unlock(&loop->hot->lock);
    return (int32_t)number;
}

/* Python has sent the batch that it took: there is room again. */
void hot_done(struct hot_loop *loop) {
    pthread_mutex_lock(&loop->hot->lock);
    loop->done++;
    pthread_mutex_unlock(&loop->hot->lock);
}
