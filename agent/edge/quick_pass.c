/* A plain GET that goes on to an endpoint, and the answer that comes back whole: `Express._sent_on` and
 * `Express.first` for connections that are ready and responses of the common kind.
 */
#include "quick.h"

#define TRACE_BYTES 24
#define TRACE_PARTS 3
#define ID_FIELD "X-Request-Id: "
#define TRACE_FIELD "\r\ntraceparent: 00-"
#define END "\r\n\r\n"

/* ---- to the endpoint */

struct going {
    PyObject *way, *candidate, *endpoint, *idle, *upstream, *transport; /* all held */
    PyObject *id, *data, *request, *deadline, *begun;                   /* what is new */
};

static void let_go(struct going *going) {
    PyObject **all[] = {&going->way,       &going->candidate, &going->endpoint, &going->idle,
                        &going->upstream,  &going->transport, &going->id,       &going->data,
                        &going->request,   &going->deadline,  &going->begun};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        Py_CLEAR(*all[i]);
}

/* Whether responses for the key are known not to be stored. */
static int is_uncacheable(PyObject *state, PyObject *key) {
    PyObject *known = SLOT(state, STATE__uncacheable);
    PyObject *until = known && PyDict_Check(known) ? PyDict_GetItemWithError(known, key) : NULL;
    if (!until)
        return PyErr_Occurred() ? -1 : 0;
    double limit, now;
    if (as_double(until, &limit) < 0 || call_double(SLOT(state, STATE_monotonic), &now) < 0)
        return -1;
    return now < limit;
}

static int choose(struct going *going, PyObject *state, double now) {
    PyObject *candidate = SLOT(going->way, WAY_candidate);
    if (!candidate)
        return 0;
    if (candidate != Py_None) {
        Py_INCREF(candidate);
    } else {
        candidate = PyObject_CallMethod(going->way, "choose", "dO", now, SLOT(state, STATE_rng));
        if (!candidate)
            return -1;
    }
    going->candidate = candidate;
    if (!IS(candidate, CANDIDATE))
        return 0;
    PyObject *endpoint = SLOT(candidate, CANDIDATE_endpoint);
    if (!endpoint || !IS(endpoint, ENDPOINT))
        return 0;
    Py_INCREF(endpoint);
    going->endpoint = endpoint;
    PyObject *ejections = SLOT(endpoint, ENDPOINT_ejections);
    return ejections && PyLong_Check(ejections) && PyObject_Not(ejections);
}

/* The connection that was used last, when it needs no preparation. */
static int find_connection(struct going *going, double now) {
    PyObject *kept = SLOT(going->way, WAY_kept), *address = SLOT(going->endpoint, ENDPOINT_address);
    PyObject *idle = kept && PyDict_Check(kept) && address ? PyDict_GetItemWithError(kept, address) : NULL;
    if (!idle || !PyList_Check(idle) || !PyList_GET_SIZE(idle))
        return PyErr_Occurred() ? -1 : 0;
    PyObject *upstream = PyList_GET_ITEM(idle, PyList_GET_SIZE(idle) - 1);
    if (!IS(upstream, UPSTREAM) || SLOT(upstream, UPSTREAM__error) != Py_None ||
        SLOT(upstream, UPSTREAM__fresh) != Py_True)
        return 0;
    PyObject *transport = SLOT(upstream, UPSTREAM__transport);
    double since;
    if (as_double(SLOT(upstream, UPSTREAM_idle_since), &since) < 0)
        return -1;
    if (!transport || transport == Py_None || now - since >= idle_s_max)
        return 0;
    Py_INCREF(idle);
    Py_INCREF(upstream);
    Py_INCREF(transport);
    going->idle = idle;
    going->upstream = upstream;
    going->transport = transport;
    int closes = transport_closes(transport);
    if (closes)
        return closes < 0 ? -1 : 0;
    return PyList_GET_SIZE(idle) && PyList_GET_ITEM(idle, PyList_GET_SIZE(idle) - 1) == upstream;
}

/* The ids of a new trace, as `headers.traceparent` of 192 random bits. */
static int draw_trace(PyObject *rng, unsigned char bytes[TRACE_BYTES]) {
    for (int part = 0; part < TRACE_PARTS; part++) {
        PyObject *args[2] = {rng, part_bits}, *drawn = PyObject_VectorcallMethod(name_getrandbits, args, 2, NULL);
        if (!drawn)
            return -1;
        unsigned long long bits = PyLong_AsUnsignedLongLong(drawn);
        Py_DECREF(drawn);
        if (bits == (unsigned long long)-1 && PyErr_Occurred())
            return -1;
        for (int at = 0; at < 8; at++, bits >>= 8)
            bytes[TRACE_BYTES - 1 - 8 * part - at] = (unsigned char)bits;
    }
    static const unsigned char nothing[16];
    if (!memcmp(bytes, nothing, 16) || !memcmp(bytes + 16, nothing, 8))
        bytes[15] = (unsigned char)((bytes[15] & 0xf0) | 1), bytes[23] = (unsigned char)((bytes[23] & 0xf0) | 1);
    return 0;
}

static unsigned char *put_hex(unsigned char *to, const unsigned char *bytes, size_t size) {
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < size; i++) {
        *to++ = (unsigned char)digits[bytes[i] >> 4];
        *to++ = (unsigned char)digits[bytes[i] & 15];
    }
    return to;
}

/* What the endpoint gets: `with_ids`. */
static PyObject *with_ids(struct span prefix, struct span id, const unsigned char *trace) {
    size_t room = prefix.size + sizeof(ID_FIELD END) - 1 + id.size;
    if (trace)
        room += sizeof(TRACE_FIELD) - 1 + 2 * TRACE_BYTES + 4;
    PyObject *data = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)room);
    if (!data)
        return NULL;
    unsigned char *to = put((unsigned char *)PyBytes_AS_STRING(data), prefix.at, prefix.size);
    to = put_text(to, ID_FIELD);
    to = put(to, id.at, id.size);
    if (trace) {
        to = put_text(to, TRACE_FIELD);
        to = put_hex(to, trace, 16);
        to = put_text(to, "-");
        to = put_hex(to, trace + 16, 8);
        to = put_text(to, "-00");
    }
    put_text(to, END);
    return data;
}

static int prepare(struct going *going, PyObject *state, PyObject *key, double now) {
    unsigned char id[ID_MAX], trace[TRACE_BYTES];
    PyObject *prefix = SLOT(going->way, WAY_prefix), *model = SLOT(going->way, WAY_request);
    int traced = SLOT(going->way, WAY_traced) == Py_True;
    double timeout_s;
    if (as_double(SLOT(state, STATE_upstream_timeout_s), &timeout_s) < 0)
        return -1;
    Py_ssize_t size = next_id(state, id);
    if (size < 0 || (!traced && draw_trace(SLOT(state, STATE_rng), trace) < 0))
        return -1;
    struct span span = {id, (size_t)size};
    going->id = PyBytes_FromStringAndSize((const char *)id, size);
    going->data = with_ids(span_of(prefix), span, traced ? NULL : trace);
    going->request = copy_of(model, REQUEST);
    going->deadline = PyFloat_FromDouble(now + timeout_s);
    going->begun = PyFloat_FromDouble(now);
    if (!going->id || !going->data || !going->request || !going->deadline || !going->begun)
        return -1;
    share_slot(going->request, REQUEST_key, key);
    share_slot(going->request, REQUEST_id, going->id);
    share_slot(going->request, REQUEST_started_s, going->begun);
    return 0;
}

static int begin(struct going *going, PyObject *client, PyObject *state) {
    PyObject *upstream = going->upstream;
    Py_ssize_t last = PyList_GET_SIZE(going->idle) - 1;
    if (add_to_slot(going->endpoint, ENDPOINT_outstanding, 1) < 0 ||
        PyList_SetSlice(going->idle, last, last + 1, NULL) < 0)
        return -1;
    share_slot(client, CLIENT__active, going->request);
    share_slot(client, CLIENT__relay, client);
    share_slot(client, CLIENT_response_begun, Py_False);
    share_slot(client, CLIENT__candidate, going->candidate);
    share_slot(client, CLIENT__endpoint_connection, upstream);
    share_slot(client, CLIENT__sent_at, going->begun);
    share_slot(upstream, UPSTREAM_sink, client);
    share_slot(upstream, UPSTREAM__quick, client);
    share_slot(upstream, UPSTREAM__busy, Py_True);
    share_slot(upstream, UPSTREAM__sent, Py_True);
    share_slot(upstream, UPSTREAM__timeout_s, SLOT(state, STATE_upstream_timeout_s));
    share_slot(upstream, UPSTREAM_deadline, going->deadline);
    return write_to(going->transport, going->data) < 0 ? -1 : 1;
}

static int is_way(PyObject *way, PyObject *state, PyObject *head) {
    if (!way || !IS(way, WAY) || SLOT(way, WAY_head) != head || SLOT(way, WAY_table) != SLOT(state, STATE_table))
        return 0;
    PyObject *model = SLOT(way, WAY_request), *prefix = SLOT(way, WAY_prefix), *app = SLOT(way, WAY_app);
    PyObject *member = SLOT(way, WAY_member);
    return model && IS(model, REQUEST) && prefix && PyBytes_Check(prefix) && app && PyUnicode_Check(app) && member &&
           PyBytes_Check(member);
}

int quick_sent_on(PyObject *client, PyObject *state, PyObject *head, PyObject *key, double now) {
    PyObject *way = SLOT(client, CLIENT__way);
    if (!is_way(way, state, head))
        return 0;
    int done = SLOT(way, WAY_cached) == Py_False ? 1 : is_uncacheable(state, key);
    if (done <= 0)
        return done;
    Py_INCREF(way);
    struct going going = {.way = way};
    if ((done = choose(&going, state, now)) > 0 && (done = find_connection(&going, now)) > 0 &&
        (done = prepare(&going, state, key, now)) == 0)
        done = begin(&going, client, state);
    let_go(&going);
    return done;
}

/* ---- and back */

struct coming {
    PyObject *state, *way, *request, *endpoint, *upstream, *transport; /* all held */
    PyObject *lines;                                                   /* or NULL; held */
    struct head head;
    double wall, now, took_s;
};

static int fits(PyObject *client, struct coming *coming) {
    PyObject *candidate = SLOT(client, CLIENT__candidate), *address = SLOT(client, CLIENT_address);
    int ours;
    coming->lines = lines_of(coming->state, &ours);
    coming->endpoint = candidate && IS(candidate, CANDIDATE) ? SLOT(candidate, CANDIDATE_endpoint) : NULL;
    return ours && coming->endpoint && IS(coming->endpoint, ENDPOINT) && coming->way && IS(coming->way, WAY) &&
           coming->request && IS(coming->request, REQUEST) && coming->transport && address && PyBytes_Check(address) &&
           is_way(coming->way, coming->state, SLOT(coming->way, WAY_head)) &&
           SLOT(client, CLIENT__endpoint_connection) == coming->upstream && SLOT(client, CLIENT__deaf) == Py_False &&
           SLOT(coming->state, STATE_draining) == Py_False && SLOT(coming->upstream, UPSTREAM__fresh) == Py_True &&
           IS(SLOT(coming->state, STATE_counters), COUNTERS) && PyBytes_Check(SLOT(coming->request, REQUEST_id));
}

/* The value of a Date field now: `EdgeState.date`; held. */
static PyObject *date_of(PyObject *state, double wall) {
    PyObject *known = SLOT(state, STATE__date);
    if (known && PyTuple_Check(known) && PyTuple_GET_SIZE(known) == 2 && PyBytes_Check(PyTuple_GET_ITEM(known, 1)) &&
        PyLong_AsLongLong(PyTuple_GET_ITEM(known, 0)) == (long long)wall) {
        Py_INCREF(PyTuple_GET_ITEM(known, 1));
        return PyTuple_GET_ITEM(known, 1);
    }
    return PyObject_CallMethod(state, "date", NULL);
}

/* `Endpoint.answered`, for an endpoint in good health. */
static int rate(const struct coming *coming) {
    PyObject *endpoint = coming->endpoint, *ejections = SLOT(endpoint, ENDPOINT_ejections);
    double latency_s;
    if (as_double(SLOT(endpoint, ENDPOINT_latency_s), &latency_s) < 0)
        return -1;
    int status = coming->head.status, swift = coming->took_s <= latency_floor_s && latency_s <= latency_floor_s;
    if (status >= 500 || !swift || PyObject_IsTrue(ejections)) {
        PyObject *done = PyObject_CallMethod(endpoint, "answered", "idd", status, coming->now, coming->took_s);
        Py_XDECREF(done);
        return done ? 0 : -1;
    }
    PyObject *zero = PyLong_FromLong(0), *never = PyFloat_FromDouble(0.0);
    if (!zero || !never) {
        Py_XDECREF(zero);
        Py_XDECREF(never);
        return -1;
    }
    share_slot(endpoint, ENDPOINT_unreachable, Py_False);
    set_slot(endpoint, ENDPOINT_trial_until, never);
    set_slot(endpoint, ENDPOINT_server_errors, zero);
    return add_to_slot(endpoint, ENDPOINT_answers, 1);
}

static int count(const struct coming *coming) {
    PyObject *counters = SLOT(coming->state, STATE_counters);
    if (add_to_slot(counters, COUNTERS_body_bytes_sent_total, coming->head.length) < 0)
        return -1;
    if (coming->head.status == 200)
        return add_to_slot(counters, COUNTERS_plain_passes, 1);
    PyObject *done = PyObject_CallMethod(counters, "status", "i", coming->head.status);
    Py_XDECREF(done);
    return done ? add_to_slot(counters, COUNTERS_misses_total, 1) : -1;
}

/* The connection waits for the next request: `UpstreamConnection.rest` and `Pool.keep`. */
static int rest(const struct coming *coming) {
    PyObject *upstream = coming->upstream, *since = PyFloat_FromDouble(coming->now), *none = PyFloat_FromDouble(0.0);
    if (!since || !none) {
        Py_XDECREF(since);
        Py_XDECREF(none);
        return -1;
    }
    share_slot(upstream, UPSTREAM__busy, Py_False);
    share_slot(upstream, UPSTREAM__quick, Py_None);
    share_slot(upstream, UPSTREAM_sink, Py_None);
    share_slot(upstream, UPSTREAM_early, Py_None);
    set_slot(upstream, UPSTREAM_deadline, none);
    set_slot(upstream, UPSTREAM_idle_since, since);
    PyObject *kept = SLOT(coming->way, WAY_kept);
    PyObject *idle = PyDict_GetItemWithError(kept, SLOT(upstream, UPSTREAM_address));
    if (idle && PyList_Check(idle) && PyList_GET_SIZE(idle) < idle_most)
        return PyList_Append(idle, upstream);
    PyObject *done = PyErr_Occurred() ? NULL : PyObject_CallMethod(coming->way, "keep", "O", upstream);
    Py_XDECREF(done);
    return done ? 0 : -1;
}

static int note(PyObject *client, const struct coming *coming) {
    if (!coming->lines)
        return 0;
    Py_ssize_t size;
    const char *app = PyUnicode_AsUTF8AndSize(SLOT(coming->way, WAY_app), &size);
    PyObject *quoted = app ? quoted_of(SLOT(coming->way, WAY_head)) : NULL;
    if (!quoted)
        return -1;
    struct span app_span = {(const unsigned char *)app, (size_t)size}, member = span_of(SLOT(coming->way, WAY_member));
    struct span address = span_of(SLOT(client, CLIENT_address)), id = span_of(SLOT(coming->request, REQUEST_id));
    struct line line = {coming->wall, coming->took_s, address, span_of(quoted), app_span, member, id,
                        coming->head.status, (long long)coming->head.length};
    lines_add(coming->lines, &line);
    Py_DECREF(quoted);
    return 0;
}

static PyObject *translated(PyObject *client, struct coming *coming, struct span data) {
    double sent_at;
    if (call_double(SLOT(coming->state, STATE_wall), &coming->wall) < 0 || loop_time(client, &coming->now) < 0 ||
        as_double(SLOT(client, CLIENT__sent_at), &sent_at) < 0)
        return NULL;
    coming->took_s = coming->now - sent_at;
    PyObject *date = date_of(coming->state, coming->wall);
    if (!date || !PyBytes_Check(date)) {
        Py_XDECREF(date);
        return NULL;
    }
    struct span member = span_of(SLOT(coming->way, WAY_member)), id = span_of(SLOT(coming->request, REQUEST_id));
    PyObject *out = head_written(&coming->head, data, member, id, span_of(date));
    Py_DECREF(date);
    return out;
}

static int finish(PyObject *client, const struct coming *coming, PyObject *out) {
    if (rate(coming) < 0 || count(coming) < 0)
        return -1;
    share_slot(client, CLIENT__active, Py_None);
    share_slot(client, CLIENT__relay, Py_None);
    share_slot(client, CLIENT__endpoint_connection, Py_None);
    if (add_to_slot(coming->endpoint, ENDPOINT_outstanding, -1) < 0 || rest(coming) < 0 || note(client, coming) < 0 ||
        write_to(coming->transport, out) < 0)
        return -1;
    return go_on(client) < 0 ? -1 : 1;
}

int quick_answered(PyObject *upstream, PyObject *client, struct span data) {
    struct coming coming = {.state = SLOT(client, CLIENT__state), .way = SLOT(client, CLIENT__way), .upstream = upstream};
    coming.request = SLOT(client, CLIENT__active);
    coming.transport = SLOT(client, CLIENT__transport);
    if (!coming.state || !IS(coming.state, STATE) || !fits(client, &coming) || !head_read(&coming.head, data) ||
        coming.head.end - coming.head.body < coming.head.length)
        return 0;
    PyObject *held[] = {coming.state,    coming.way,       coming.request, coming.endpoint,
                        coming.upstream, coming.transport, coming.lines,   client};
    for (size_t i = 0; i < sizeof held / sizeof *held; i++)
        Py_XINCREF(held[i]);
    int closes = transport_closes(coming.transport), done = closes < 0 ? -1 : 0;
    if (!closes) {
        PyObject *out = translated(client, &coming, data);
        done = out ? finish(client, &coming, out) : -1;
        Py_XDECREF(out);
    }
    for (size_t i = 0; i < sizeof held / sizeof *held; i++)
        Py_XDECREF(held[i]);
    return done;
}
