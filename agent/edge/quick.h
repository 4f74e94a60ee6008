/* What the compiled parts of the edge share. Each of them does what a function in Python does as well, which stays
 * the rule and the fallback: they take the common case, and hand over what they do not know before they change a thing.
 */
#ifndef LOCCI_QUICK_H
#define LOCCI_QUICK_H
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

struct span {
    const unsigned char *at;
    size_t size;
};

static inline unsigned char *put(unsigned char *to, const void *from, size_t size) {
    memcpy(to, from, size);
    return to + size;
}

#define put_text(to, text) put((to), (text), sizeof(text) - 1)

static inline struct span span_of(PyObject *bytes) {
    return (struct span){(const unsigned char *)PyBytes_AS_STRING(bytes), (size_t)PyBytes_GET_SIZE(bytes)};
}

#define DIGITS 20
/* Writes a number's digits to the end of `digits`, which has room for DIGITS; returns them. */
struct span decimal(char digits[DIGITS], int64_t number);

/* ---- quick_head.c: the head of an endpoint's response, for a client */

struct head {
    int status;
    int64_t length; /* of the body; -1: not known */
    struct span via, cache_status;
    int has_date;
    size_t kept; /* bytes of what is kept, line ends included */
    const unsigned char *fields, *body, *end;
};

void head_setup(void);
/* Whether it is of the common kind, whole, with no more behind it than its body. */
int head_read(struct head *head, struct span data);
/* The client's bytes, with what is there of the body. */
PyObject *head_written(struct head *head, struct span data, struct span member, struct span id, struct span date);
PyObject *quick_rewritten(PyObject *self, PyObject *const *args, Py_ssize_t count);

/* ---- quick_lines.c: lines of the access log */

extern PyTypeObject LinesType;
struct line {
    double at, took_s;
    struct span client, quoted, app, cache, id;
    long status;
    long long size;
};
/* Adds a line, or counts it as dropped. */
void lines_add(PyObject *lines, const struct line *line);

/* ---- quick_blake2b.c, quick_entry.c: a stored response out of its stored form */

void blake2b(unsigned char *digest, size_t digest_size, struct span key, struct span data);
extern PyObject *entry_model, *restore_in_python, *verdict_in_python;
PyObject *quick_decode(PyObject *self, PyObject *const *args, Py_ssize_t count);

/* ---- quick_slots.c: where Python's objects keep their attributes */

#define CLASSES(X) \
    X(CLIENT, "client") X(UPSTREAM, "upstream") X(STATE, "state") X(STORE, "store") X(NODE, "node") \
    X(ENTRY, "entry") X(VERDICT, "verdict") X(HEAD, "head") X(WAY, "way") X(REQUEST, "request") \
    X(CANDIDATE, "candidate") X(ENDPOINT, "endpoint") X(COUNTERS, "counters") X(LOG, "log")

#define SLOTS(X) \
    X(CLIENT, _state) X(CLIENT, _loop) X(CLIENT, _deaf) X(CLIENT, _data_at) X(CLIENT, _between) X(CLIENT, _heads) \
    X(CLIENT, _active) X(CLIENT, _queue) X(CLIENT, _writable) X(CLIENT, _transport) X(CLIENT, _relay) X(CLIENT, _way) \
    X(CLIENT, _endpoint_connection) X(CLIENT, _candidate) X(CLIENT, _sent_at) X(CLIENT, address) \
    X(CLIENT, response_begun) \
    X(UPSTREAM, raw) X(UPSTREAM, _quick) X(UPSTREAM, sink) X(UPSTREAM, early) X(UPSTREAM, _error) \
    X(UPSTREAM, _transport) X(UPSTREAM, _fresh) X(UPSTREAM, _busy) X(UPSTREAM, _sent) X(UPSTREAM, _timeout_s) \
    X(UPSTREAM, deadline) X(UPSTREAM, idle_since) X(UPSTREAM, address) \
    X(STATE, wall) X(STATE, monotonic) X(STATE, rng) X(STATE, rates) X(STATE, draining) X(STATE, store) \
    X(STATE, table) X(STATE, counters) X(STATE, access_log) X(STATE, purge_round) X(STATE, upstream_timeout_s) \
    X(STATE, _uncacheable) X(STATE, _date) X(STATE, _request_prefix) X(STATE, _request_numbers) \
    X(STORE, _nodes) X(NODE, value) X(NODE, frequency) \
    X(ENTRY, status) X(ENTRY, body) X(ENTRY, verdict) X(ENTRY, response_time) X(ENTRY, initial_age_s) \
    X(ENTRY, fixed) X(ENTRY, fresh_until) X(ENTRY, checked) X(ENTRY, reason) X(ENTRY, headers) \
    X(ENTRY, etag) X(ENTRY, last_modified) X(ENTRY, cost_bytes) X(ENTRY, sequence) X(ENTRY, coding) X(VERDICT, lifetime_s) \
    X(HEAD, plain) X(HEAD, quoted) \
    X(WAY, head) X(WAY, table) X(WAY, app) X(WAY, cached) X(WAY, candidate) X(WAY, kept) X(WAY, request) \
    X(WAY, member) X(WAY, prefix) X(WAY, traced) \
    X(REQUEST, key) X(REQUEST, id) X(REQUEST, started_s) X(REQUEST, app) X(REQUEST, head) X(CANDIDATE, endpoint) \
    X(ENDPOINT, address) X(ENDPOINT, outstanding) X(ENDPOINT, ejections) X(ENDPOINT, server_errors) \
    X(ENDPOINT, trial_until) X(ENDPOINT, latency_s) X(ENDPOINT, answers) X(ENDPOINT, unreachable) \
    X(COUNTERS, plain_hits) X(COUNTERS, plain_passes) X(COUNTERS, misses_total) X(COUNTERS, body_bytes_sent_total) \
    X(LOG, lines)

#define AS_CLASS(name, text) name,
enum class { CLASSES(AS_CLASS) CLASS_COUNT };
#define AS_SLOT(class, name) class##_##name,
enum slot { SLOTS(AS_SLOT) SLOT_COUNT };

extern PyTypeObject *class_of[CLASS_COUNT];
extern Py_ssize_t offset_of[SLOT_COUNT];
extern PyObject *client_in_python, *upstream_in_python, *whole_in_python; /* what goes on with what is not common */
extern double latency_floor_s, idle_s_max;
extern Py_ssize_t idle_most;

static inline int is_a(PyObject *object, enum class class) {
    return object && Py_TYPE(object) == class_of[class];
}
#define IS(object, class) is_a((object), (class))
/* A slot of an object whose class was looked at; NULL when nothing was ever put there. */
#define SLOT(object, slot) (*(PyObject **)((char *)(object) + offset_of[slot]))

/* Puts something new in a slot; takes the reference over. */
static inline void set_slot(PyObject *object, enum slot slot, PyObject *value) {
    PyObject **place = &SLOT(object, slot);
    PyObject *before = *place;
    *place = value;
    Py_XDECREF(before);
}

static inline void share_slot(PyObject *object, enum slot slot, PyObject *value) {
    Py_INCREF(value);
    set_slot(object, slot, value);
}

/* Adds to an integer in a slot; 0 on success. */
int add_to_slot(PyObject *object, enum slot slot, long long more);
PyObject *copy_of(PyObject *object, enum class class); /* another with the same in its slots */
PyObject *quick_bind(PyObject *self, PyObject *args);

/* ---- quick_path.c, quick_hit.c, quick_pass.c: a request on its way. Each returns 1 when it has seen to everything,
 * 0 when Python must do it, with nothing changed, and -1 with an exception set. */

extern PyObject *name_time, *name_write, *name_writelines, *name_is_closing, *name_getrandbits;
extern PyObject *part_bits; /* how many of a trace are drawn at once: 64 */

int quick_hit(PyObject *client, PyObject *state, PyObject *head, PyObject *node);
PyObject *quick_send_whole(PyObject *self, PyObject *const *args, Py_ssize_t count);
int quick_sent_on(PyObject *client, PyObject *state, PyObject *head, PyObject *key, double now);
int quick_answered(PyObject *upstream, PyObject *client, struct span data);

#define ID_MAX 96
/* A new request's id; its size, or -1 when there is an error. */
Py_ssize_t next_id(PyObject *state, unsigned char id[ID_MAX]);
int as_double(PyObject *number, double *found); /* 0 when it is one */
int call_double(PyObject *callable, double *found);
int loop_time(PyObject *client, double *found);
int transport_closes(PyObject *transport); /* 1, 0, or -1 for an error */
int write_to(PyObject *transport, PyObject *data);
int go_on(PyObject *client); /* with the next request, when there is one; 0 on success */
/* The log's lines; NULL when there is no log, or with `ours` 0 when it is kept in Python. */
PyObject *lines_of(PyObject *state, int *ours);
/* What the access log says of requests with that head; a new reference. */
PyObject *quoted_of(PyObject *head);

#endif
