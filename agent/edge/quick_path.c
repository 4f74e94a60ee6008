/* Where bytes of clients and endpoints arrive: `data_received` of both kinds of connection, for the common case, and
 * what the parts have in common. Whatever is not common is given to the method in Python that is replaced here.
 */
#include "quick.h"

PyObject *name_time, *name_write, *name_writelines, *name_is_closing, *name_getrandbits, *part_bits;
static PyObject *name_arrived, *name_passed_on;

/* ---- numbers and time */

int as_double(PyObject *number, double *found) {
    if (!number) {
        PyErr_SetString(PyExc_AttributeError, "a number is missing");
        return -1;
    }
    *found = PyFloat_AsDouble(number);
    return *found == -1.0 && PyErr_Occurred() ? -1 : 0;
}

static int taken_double(PyObject *number, double *found) {
    if (!number)
        return -1;
    int done = as_double(number, found);
    Py_DECREF(number);
    return done;
}

int call_double(PyObject *callable, double *found) {
    return taken_double(callable ? PyObject_CallNoArgs(callable) : NULL, found);
}

int loop_time(PyObject *client, double *found) {
    PyObject *loop = SLOT(client, CLIENT__loop);
    return taken_double(loop ? PyObject_CallMethodNoArgs(loop, name_time) : NULL, found);
}

Py_ssize_t next_id(PyObject *state, unsigned char id[ID_MAX]) {
    static const char digits[] = "0123456789abcdef";
    PyObject *prefix = SLOT(state, STATE__request_prefix), *numbers = SLOT(state, STATE__request_numbers);
    PyObject *number = numbers ? PyIter_Next(numbers) : NULL;
    unsigned long long left = number ? PyLong_AsUnsignedLongLong(number) : 0;
    Py_XDECREF(number);
    if (!number || !prefix || !PyBytes_Check(prefix) || PyBytes_GET_SIZE(prefix) > ID_MAX - 17 || PyErr_Occurred()) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_TypeError, "there is no id for the request");
        return -1;
    }
    unsigned char hex[16], *to = put(id, PyBytes_AS_STRING(prefix), (size_t)PyBytes_GET_SIZE(prefix));
    int at = sizeof hex;
    do {
        hex[--at] = (unsigned char)digits[left & 15];
        left >>= 4;
    } while (left);
    *to++ = '-';
    to = put(to, hex + at, sizeof hex - (size_t)at);
    return to - id;
}

/* ---- transports and the log */

int transport_closes(PyObject *transport) {
    PyObject *closes = PyObject_CallMethodNoArgs(transport, name_is_closing);
    if (!closes)
        return -1;
    int found = PyObject_IsTrue(closes);
    Py_DECREF(closes);
    return found;
}

int write_to(PyObject *transport, PyObject *data) {
    PyObject *args[2] = {transport, data};
    PyObject *done = PyObject_VectorcallMethod(name_write, args, 2, NULL);
    Py_XDECREF(done);
    return done ? 0 : -1;
}

int go_on(PyObject *client) {
    PyObject *queue = SLOT(client, CLIENT__queue);
    int waits = queue ? PyObject_IsTrue(queue) : 0;
    if (waits <= 0)
        return waits;
    PyObject *done = PyObject_CallMethod(client, "gone_on", NULL);
    Py_XDECREF(done);
    return done ? 0 : -1;
}

PyObject *lines_of(PyObject *state, int *ours) {
    PyObject *log = SLOT(state, STATE_access_log);
    *ours = log == Py_None;
    if (!log || !IS(log, LOG))
        return NULL;
    PyObject *lines = SLOT(log, LOG_lines);
    *ours = lines && Py_TYPE(lines) == &LinesType;
    return *ours ? lines : NULL;
}

PyObject *quoted_of(PyObject *head) {
    PyObject *quoted = SLOT(head, HEAD_quoted);
    if (quoted && PyBytes_Check(quoted) && PyBytes_GET_SIZE(quoted)) {
        Py_INCREF(quoted);
        return quoted;
    }
    quoted = PyObject_CallMethod(head, "quote", NULL);
    if (quoted && !PyBytes_Check(quoted)) {
        PyErr_SetString(PyExc_TypeError, "what a log line says of a request is no bytes");
        Py_CLEAR(quoted);
    }
    return quoted;
}

/* ---- from a client */

#define PASSED_ON 2 /* Python must see to it, but it is known that nothing is stored */

/* A request that was asked before, by these very bytes. */
static int quick(PyObject *client, PyObject *head, PyObject *key, double now) {
    PyObject *state = SLOT(client, CLIENT__state), *queue = SLOT(client, CLIENT__queue);
    if (!state || !queue || !IS(state, STATE) || !IS(head, HEAD) || SLOT(head, HEAD_plain) != Py_True ||
        SLOT(state, STATE_rates) != Py_None || SLOT(state, STATE_draining) != Py_False ||
        SLOT(client, CLIENT__active) != Py_None || SLOT(client, CLIENT__writable) != Py_True)
        return 0;
    int waits = PyObject_IsTrue(queue);
    if (waits)
        return waits < 0 ? -1 : 0;
    PyObject *store = SLOT(state, STATE_store), *nodes = store && IS(store, STORE) ? SLOT(store, STORE__nodes) : NULL;
    if (!nodes || !PyDict_Check(nodes))
        return 0;
    PyObject *node = PyDict_GetItemWithError(nodes, key);
    if (!node) {
        int sent = PyErr_Occurred() ? -1 : quick_sent_on(client, state, head, key, now);
        return sent ? sent : PASSED_ON;
    }
    if (!IS(node, NODE))
        return 0;
    Py_INCREF(node);
    int done = quick_hit(client, state, head, node);
    if (done > 0) {
        PyObject *frequency = SLOT(node, NODE_frequency);
        if (frequency && PyLong_AsLong(frequency) < 3 && add_to_slot(node, NODE_frequency, 1) < 0)
            done = -1;
    }
    Py_DECREF(node);
    return done;
}

static PyObject *hand_over(PyObject *method, PyObject *const *args) { return PyObject_Vectorcall(method, args, 2, NULL); }

static PyObject *client_received(PyObject *self, PyObject *const *args, Py_ssize_t count) {
    (void)self;
    if (count != 2 || !client_in_python) {
        PyErr_SetString(PyExc_TypeError, "client_received(connection, data), after bind");
        return NULL;
    }
    PyObject *client = args[0], *data = args[1];
    if (!IS(client, CLIENT) || !PyBytes_CheckExact(data) || SLOT(client, CLIENT__deaf) != Py_False ||
        SLOT(client, CLIENT__between) != Py_True)
        return hand_over(client_in_python, args);
    PyObject *heads = SLOT(client, CLIENT__heads);
    PyObject *known = heads && PyDict_Check(heads) ? PyDict_GetItemWithError(heads, data) : NULL;
    if (!known || !PyTuple_Check(known) || PyTuple_GET_SIZE(known) != 2)
        return PyErr_Occurred() ? NULL : hand_over(client_in_python, args);
    double now;
    if (loop_time(client, &now) < 0)
        return NULL;
    PyObject *at = PyFloat_FromDouble(now);
    if (!at)
        return NULL;
    set_slot(client, CLIENT__data_at, at);
    Py_INCREF(known);
    PyObject *head = PyTuple_GET_ITEM(known, 0), *key = PyTuple_GET_ITEM(known, 1), *result = NULL;
    int done = quick(client, head, key, now);
    if (!done) {
        PyObject *all[4] = {client, head, key, Py_None};
        result = PyObject_VectorcallMethod(name_arrived, all, 4, NULL);
    } else if (done == PASSED_ON) {
        PyObject *all[3] = {client, head, key};
        result = PyObject_VectorcallMethod(name_passed_on, all, 3, NULL);
    } else if (done > 0) {
        result = Py_None;
        Py_INCREF(result);
    }
    Py_DECREF(known);
    return result;
}

/* ---- from an endpoint */

static PyObject *upstream_received(PyObject *self, PyObject *const *args, Py_ssize_t count) {
    (void)self;
    if (count != 2 || !upstream_in_python) {
        PyErr_SetString(PyExc_TypeError, "upstream_received(connection, data), after bind");
        return NULL;
    }
    PyObject *upstream = args[0], *data = args[1];
    if (!IS(upstream, UPSTREAM) || !PyBytes_CheckExact(data) || SLOT(upstream, UPSTREAM_raw) != Py_None)
        return hand_over(upstream_in_python, args);
    PyObject *client = SLOT(upstream, UPSTREAM__quick);
    if (!client || !IS(client, CLIENT))
        return hand_over(upstream_in_python, args);
    int done = quick_answered(upstream, client, span_of(data));
    if (!done)
        return hand_over(upstream_in_python, args);
    if (done < 0)
        return NULL;
    Py_RETURN_NONE;
}

/* ---- the module */

static PyMethodDef replacing[] = {
    {"client_received", (PyCFunction)(void (*)(void))client_received, METH_FASTCALL, "ClientConnection.data_received"},
    {"upstream_received", (PyCFunction)(void (*)(void))upstream_received, METH_FASTCALL,
     "UpstreamConnection.data_received"},
    {"send_whole", (PyCFunction)(void (*)(void))quick_send_whole, METH_FASTCALL, "ClientConnection.send_whole"},
};

static PyMethodDef methods[] = {
    {"rewritten", (PyCFunction)(void (*)(void))quick_rewritten, METH_FASTCALL,
     "rewritten(data, member, request_id, date): what a client gets for these first bytes of a response, its status,\n"
     "the length of its body, and how much of that is in it already; None for what is not of the common kind."},
    {"decode", (PyCFunction)(void (*)(void))quick_decode, METH_FASTCALL,
     "decode(key, data): a whole entry without variants out of its stored form; None for what is anything else."},
    {"bind", quick_bind, METH_VARARGS,
     "bind(classes, client_received, upstream_received, send_whole, model, restore, verdict, latency_floor_s,\n"
     "idle_s_max, idle_most): the classes by name, methods that see to what is not common, an entry to be copied, functions for what is derived of one, and\n"
     "constants. Raises TypeError for classes that are not made as expected."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_quick", NULL, -1, methods, NULL, NULL, NULL, NULL};

/* Functions that become methods of a class in Python. */
static int add_replacing(PyObject *module) {
    for (size_t i = 0; i < sizeof replacing / sizeof *replacing; i++) {
        PyObject *function = PyCFunction_New(&replacing[i], NULL);
        PyObject *method = function ? PyInstanceMethod_New(function) : NULL;
        Py_XDECREF(function);
        if (!method || PyModule_AddObject(module, replacing[i].ml_name, method) < 0) {
            Py_XDECREF(method);
            return -1;
        }
    }
    return 0;
}

PyMODINIT_FUNC PyInit__quick(void) {
    head_setup();
    name_time = PyUnicode_InternFromString("time");
    name_write = PyUnicode_InternFromString("write");
    name_writelines = PyUnicode_InternFromString("writelines");
    name_is_closing = PyUnicode_InternFromString("is_closing");
    name_getrandbits = PyUnicode_InternFromString("getrandbits");
    part_bits = PyLong_FromLong(64);
    name_passed_on = PyUnicode_InternFromString("passed_on");
    name_arrived = PyUnicode_InternFromString("arrived");
    PyObject *module = PyModule_Create(&definition);
    if (!module || !name_time || !name_write || !name_writelines || !name_is_closing || !name_arrived || !name_passed_on ||
        !name_getrandbits || !part_bits ||
        add_replacing(module) < 0 || PyType_Ready(&LinesType) < 0 ||
        PyModule_AddObjectRef(module, "Lines", (PyObject *)&LinesType) < 0) {
        Py_XDECREF(module);
        return NULL;
    }
    return module;
}
