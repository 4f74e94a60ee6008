/* A whole 200 that is stored: `ClientConnection._hit` for what lies in RAM, `send_whole` for what Redis had. */
#include "quick.h"

#define BEGIN "HTTP/1.1 200 OK\r\nX-Request-Id: "
#define AGE "Age: "
#define MEMBER "\r\nVia: 1.1 locci\r\nCache-Status: locci; hit; ttl="
#define RECALLED "; detail=second-tier"
#define END "\r\n\r\n"
#define COALESCED_MAX (16 * 1024) /* COALESCED_BYTES_MAX in downstream.py */
#define LARGE_MIN (256 * 1024)    /* PIECE_BYTES in large.py: what is more is sent in pieces */
#define SECONDS_MAX 1e15
#define HIT "locci; hit"

struct found {
    PyObject *fixed, *body; /* both held */
    int64_t age_s, ttl_s;
};

/* Whether the entry is fresh, and was compared with the latest orders to purge. */
static int is_fresh(PyObject *state, PyObject *entry, double now) {
    double fresh_until;
    PyObject *checked = SLOT(entry, ENTRY_checked), *round = SLOT(state, STATE_purge_round);
    if (as_double(SLOT(entry, ENTRY_fresh_until), &fresh_until) < 0)
        return -1;
    if (now >= fresh_until || !checked || !round)
        return 0;
    int same = PyLong_AsLongLong(checked) == PyLong_AsLongLong(round);
    return PyErr_Occurred() ? -1 : same;
}

/* What the head is made of; 0 when the entry is of a kind that needs a closer look. */
static int look(PyObject *entry, double now, struct found *found) {
    double response_time, initial_age_s, lifetime_s;
    PyObject *status = SLOT(entry, ENTRY_status), *verdict = SLOT(entry, ENTRY_verdict);
    PyObject *fixed = SLOT(entry, ENTRY_fixed), *body = SLOT(entry, ENTRY_body);
    if (!status || !verdict || !fixed || !body || !IS(verdict, VERDICT) || !PyBytes_Check(body) ||
        PyBytes_GET_SIZE(body) > LARGE_MIN)
        return 0;
    if (PyLong_AsLong(status) != 200)
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

/* The head, with the `end` of the member of Cache-Status; with the body behind it when that is small. */
static PyObject *written(const struct found *found, struct span id, struct span end, int whole) {
    char age[DIGITS], ttl[DIGITS];
    struct span fixed = span_of(found->fixed), body = span_of(found->body);
    struct span ages = decimal(age, found->age_s), ttls = decimal(ttl, found->ttl_s);
    size_t room = sizeof(BEGIN AGE MEMBER END) - 1 + id.size + fixed.size + ages.size + ttls.size + end.size;
    PyObject *out = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(room + (whole ? body.size : 0)));
    if (!out)
        return NULL;
    unsigned char *to = put_text((unsigned char *)PyBytes_AS_STRING(out), BEGIN);
    to = put(to, id.at, id.size);
    to = put(to, fixed.at, fixed.size);
    to = put_text(to, AGE);
    to = put(to, ages.at, ages.size);
    to = put_text(to, MEMBER);
    to = put(to, ttls.at, ttls.size);
    to = put(to, end.at, end.size);
    to = put_text(to, END);
    if (whole)
        put(to, body.at, body.size);
    return out;
}

static int send(PyObject *transport, const struct found *found, struct span id, struct span end) {
    int whole = PyBytes_GET_SIZE(found->body) <= COALESCED_MAX;
    PyObject *out = written(found, id, end, whole);
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
    struct span end = {(const unsigned char *)"", 0};
    return send(SLOT(client, CLIENT__transport), found, id_span, end) < 0 ? -1 : 1;
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
    int fit = is_fresh(state, entry, now);
    if (fit > 0)
        fit = look(entry, now, &found);
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

/* ---- what the second tier had */

static int note_recalled(PyObject *client, PyObject *lines, PyObject *request, const struct found *found) {
    double wall, now, started;
    PyObject *app = SLOT(request, REQUEST_app), *head = SLOT(request, REQUEST_head);
    Py_ssize_t app_size;
    const char *app_text = PyUnicode_AsUTF8AndSize(app, &app_size);
    if (!app_text || call_double(SLOT(SLOT(client, CLIENT__state), STATE_wall), &wall) < 0 ||
        loop_time(client, &now) < 0 || as_double(SLOT(request, REQUEST_started_s), &started) < 0)
        return -1;
    PyObject *quoted = quoted_of(head);
    if (!quoted)
        return -1;
    unsigned char member[sizeof(HIT RECALLED "; ttl=") + DIGITS], *to = put_text(member, HIT "; ttl=");
    char digits[DIGITS];
    struct span ttl = decimal(digits, found->ttl_s);
    to = put(to, ttl.at, ttl.size);
    to = put_text(to, RECALLED);
    struct line line = {wall, now - started, span_of(SLOT(client, CLIENT_address)), span_of(quoted),
                        {(const unsigned char *)app_text, (size_t)app_size}, {member, (size_t)(to - member)},
                        span_of(SLOT(request, REQUEST_id)), 200, PyBytes_GET_SIZE(found->body)};
    lines_add(lines, &line);
    Py_DECREF(quoted);
    return 0;
}

static int send_recalled(PyObject *client, PyObject *request, PyObject *lines, const struct found *found) {
    PyObject *counters = SLOT(SLOT(client, CLIENT__state), STATE_counters);
    if (add_to_slot(counters, COUNTERS_plain_hits, 1) < 0 ||
        add_to_slot(counters, COUNTERS_body_bytes_sent_total, PyBytes_GET_SIZE(found->body)) < 0 ||
        (lines && note_recalled(client, lines, request, found) < 0))
        return -1;
    share_slot(client, CLIENT__active, Py_None);
    share_slot(client, CLIENT__relay, Py_None);
    struct span end = {(const unsigned char *)RECALLED, sizeof(RECALLED) - 1};
    if (send(SLOT(client, CLIENT__transport), found, span_of(SLOT(request, REQUEST_id)), end) < 0)
        return -1;
    return go_on(client);
}

static int are_known(PyObject *client, PyObject *request, PyObject *entry) {
    if (!IS(client, CLIENT) || !IS(request, REQUEST) || !IS(entry, ENTRY) || !IS(SLOT(client, CLIENT__state), STATE))
        return 0;
    PyObject *id = SLOT(request, REQUEST_id), *app = SLOT(request, REQUEST_app), *head = SLOT(request, REQUEST_head);
    PyObject *address = SLOT(client, CLIENT_address);
    return IS(SLOT(SLOT(client, CLIENT__state), STATE_counters), COUNTERS) && id && PyBytes_Check(id) && app &&
           PyUnicode_Check(app) && IS(head, HEAD) && address && PyBytes_Check(address) &&
           SLOT(client, CLIENT__transport);
}

PyObject *quick_send_whole(PyObject *self, PyObject *const *args, Py_ssize_t count) {
    (void)self;
    if (count != 4 || !whole_in_python) {
        PyErr_SetString(PyExc_TypeError, "send_whole(connection, request, entry, now), after bind");
        return NULL;
    }
    double now;
    int ours;
    struct found found = {0};
    if (!are_known(args[0], args[1], args[2]) || as_double(args[3], &now) < 0)
        return PyErr_Occurred() ? NULL : PyObject_Vectorcall(whole_in_python, args, 4, NULL);
    PyObject *lines = lines_of(SLOT(args[0], CLIENT__state), &ours);
    int fit = ours ? look(args[2], now, &found) : 0;
    if (fit <= 0)
        return fit < 0 ? NULL : PyObject_Vectorcall(whole_in_python, args, 4, NULL);
    Py_XINCREF(lines);
    int done = send_recalled(args[0], args[1], lines, &found);
    Py_XDECREF(lines);
    Py_DECREF(found.fixed);
    Py_DECREF(found.body);
    if (done < 0)
        return NULL;
    Py_RETURN_NONE;
}
