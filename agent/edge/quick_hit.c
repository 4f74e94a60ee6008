/* A hit in RAM: `ClientConnection._hit` for the plain case. */
#include "quick.h"

#define BEGIN "HTTP/1.1 200 OK\r\nX-Request-Id: "
#define AGE "Age: "
#define MEMBER "\r\nVia: 1.1 locci\r\nCache-Status: locci; hit; ttl="
#define END "\r\n\r\n"
#define COALESCED_MAX (16 * 1024) /* COALESCED_BYTES_MAX in downstream.py */
#define SECONDS_MAX 1e15
#define HIT "locci; hit"

struct found {
    PyObject *fixed, *body; /* both held */
    int64_t age_s, ttl_s;
};

/* Whether the entry is fresh, and of a kind that needs no closer look; what its head is made of. */
static int look(PyObject *state, PyObject *entry, double now, struct found *found) {
    double fresh_until, response_time, initial_age_s, lifetime_s;
    if (as_double(SLOT(entry, ENTRY_fresh_until), &fresh_until) < 0)
        return -1;
    if (now >= fresh_until)
        return 0;
    PyObject *status = SLOT(entry, ENTRY_status), *checked = SLOT(entry, ENTRY_checked);
    PyObject *round = SLOT(state, STATE_purge_round), *verdict = SLOT(entry, ENTRY_verdict);
    PyObject *fixed = SLOT(entry, ENTRY_fixed), *body = SLOT(entry, ENTRY_body);
    if (!status || !checked || !round || !verdict || !fixed || !body || !IS(verdict, VERDICT) || !PyBytes_Check(body))
        return 0;
    if (PyLong_AsLong(status) != 200 || PyLong_AsLongLong(checked) != PyLong_AsLongLong(round))
        return PyErr_Occurred() ? -1 : 0;
    if (as_double(SLOT(entry, ENTRY_response_time), &response_time) < 0 ||
        as_double(SLOT(entry, ENTRY_initial_age_s), &initial_age_s) < 0 ||
        as_double(SLOT(verdict, VERDICT_lifetime_s), &lifetime_s) < 0)
        return -1;
    double age_s = initial_age_s + (now > response_time ? now - response_time : 0.0), ttl_s = lifetime_s - age_s;
    if (!(age_s >= 0 && age_s < SECONDS_MAX && ttl_s >= 0 && ttl_s < SECONDS_MAX))
        return 0;
    found->age_s = (int64_t)age_s;
    found->ttl_s = (int64_t)ttl_s;
    if (PyBytes_Check(fixed) && PyBytes_GET_SIZE(fixed)) {
        Py_INCREF(fixed);
    } else if (!(fixed = PyObject_CallMethod(entry, "fix", NULL)) || !PyBytes_Check(fixed)) {
        Py_XDECREF(fixed);
        return -1;
    }
    found->fixed = fixed;
    Py_INCREF(body);
    found->body = body;
    return 1;
}

/* The head; with the body behind it when that is small. */
static PyObject *written(const struct found *found, const unsigned char *id, size_t id_size, int whole) {
    char age[DIGITS], ttl[DIGITS];
    struct span fixed = span_of(found->fixed), body = span_of(found->body);
    struct span ages = decimal(age, found->age_s), ttls = decimal(ttl, found->ttl_s);
    size_t room = sizeof(BEGIN AGE MEMBER END) - 1 + id_size + fixed.size + ages.size + ttls.size;
    PyObject *out = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(room + (whole ? body.size : 0)));
    if (!out)
        return NULL;
    unsigned char *to = put_text((unsigned char *)PyBytes_AS_STRING(out), BEGIN);
    to = put(to, id, id_size);
    to = put(to, fixed.at, fixed.size);
    to = put_text(to, AGE);
    to = put(to, ages.at, ages.size);
    to = put_text(to, MEMBER);
    to = put(to, ttls.at, ttls.size);
    to = put_text(to, END);
    if (whole)
        put(to, body.at, body.size);
    return out;
}

static int send(PyObject *transport, const struct found *found, const unsigned char *id, size_t id_size) {
    int whole = PyBytes_GET_SIZE(found->body) <= COALESCED_MAX;
    PyObject *out = written(found, id, id_size, whole);
    if (!out)
        return -1;
    int done;
    if (whole) {
        done = write_to(transport, out);
    } else {
        PyObject *parts = PyTuple_Pack(2, out, found->body);
        PyObject *args[2] = {transport, parts};
        PyObject *result = parts ? PyObject_VectorcallMethod(name_writelines, args, 2, NULL) : NULL;
        done = result ? 0 : -1;
        Py_XDECREF(result);
        Py_XDECREF(parts);
    }
    Py_DECREF(out);
    return done;
}

static int note(PyObject *client, PyObject *lines, PyObject *head, double now, long long size, struct span id) {
    PyObject *address = SLOT(client, CLIENT_address), *quoted = quoted_of(head);
    if (!quoted)
        return -1;
    struct span hit = {(const unsigned char *)HIT, sizeof(HIT) - 1}, app = {(const unsigned char *)"", 0};
    struct line line = {now, 0.0, span_of(address), span_of(quoted), app, hit, id, 200, size};
    lines_add(lines, &line);
    Py_DECREF(quoted);
    return 0;
}

static int answer(PyObject *client, PyObject *state, PyObject *head, PyObject *lines, double now,
                  const struct found *found) {
    unsigned char id[ID_MAX];
    Py_ssize_t id_size = next_id(state, id);
    PyObject *counters = SLOT(state, STATE_counters);
    long long size = PyBytes_GET_SIZE(found->body);
    if (id_size < 0 || add_to_slot(counters, COUNTERS_plain_hits, 1) < 0 ||
        add_to_slot(counters, COUNTERS_body_bytes_sent_total, size) < 0)
        return -1;
    struct span id_span = {id, (size_t)id_size};
    if (lines && note(client, lines, head, now, size, id_span) < 0)
        return -1;
    return send(SLOT(client, CLIENT__transport), found, id, (size_t)id_size) < 0 ? -1 : 1;
}

int quick_hit(PyObject *client, PyObject *state, PyObject *head, PyObject *node) {
    PyObject *entry = SLOT(node, NODE_value), *transport = SLOT(client, CLIENT__transport);
    PyObject *address = SLOT(client, CLIENT_address);
    int ours;
    PyObject *lines = lines_of(state, &ours);
    if (!entry || !IS(entry, ENTRY) || !ours || !transport || !address || !PyBytes_Check(address) ||
        !IS(SLOT(state, STATE_counters), COUNTERS))
        return 0;
    double now;
    struct found found = {0};
    if (call_double(SLOT(state, STATE_wall), &now) < 0)
        return -1;
    Py_INCREF(entry);
    int fit = look(state, entry, now, &found);
    Py_DECREF(entry);
    if (fit <= 0)
        return fit;
    Py_XINCREF(lines);
    Py_INCREF(transport);
    int done = answer(client, state, head, lines, now, &found);
    Py_DECREF(transport);
    Py_XDECREF(lines);
    Py_DECREF(found.fixed);
    Py_DECREF(found.body);
    return done;
}
