/* Lines of the access log, gathered as they will be written: what `PythonLines` in access_log.py does. */
#include "quick.h"
#include <math.h>

#define LINE_MAX_BESIDE 256 /* of a line, without texts that are given */
#define ROOM_KEPT (1 << 20)
#define NEAR_HALF 0.01
#define SCALED_MAX 1e13 /* above it a double has too few places behind the point */

struct lines {
    PyObject_HEAD
    unsigned char *text;
    size_t used, room;
    Py_ssize_t count, most, dropped;
};

struct span decimal(char digits[DIGITS], int64_t number) {
    int at = DIGITS;
    do {
        digits[--at] = (char)('0' + number % 10);
        number /= 10;
    } while (number);
    return (struct span){(const unsigned char *)digits + at, (size_t)(DIGITS - at)};
}

static unsigned char *put_number(unsigned char *to, int64_t number) {
    char digits[DIGITS];
    if (number < 0) {
        *to++ = '-';
        number = number == INT64_MIN ? INT64_MAX : -number;
    }
    struct span text = decimal(digits, number);
    return put(to, text.at, text.size);
}

/* As Python's `%.3f` or `%.6f`, the last digit included. */
static unsigned char *put_fixed(unsigned char *to, double number, int places) {
    double scale = places == 3 ? 1e3 : 1e6, scaled = number * scale, whole = floor(scaled), rest = scaled - whole;
    if (!signbit(number) && scaled < SCALED_MAX && fabs(rest - 0.5) > NEAR_HALF) {
        int64_t value = (int64_t)whole + (rest > 0.5), unit = (int64_t)scale, part = value % unit;
        to = put_number(to, value / unit);
        *to++ = '.';
        for (int at = places - 1; at >= 0; at--, part /= 10)
            to[at] = (unsigned char)('0' + part % 10);
        return to + places;
    }
    char *text = isfinite(number) && fabs(number) < 1e60 ? PyOS_double_to_string(number, 'f', places, 0, NULL) : NULL;
    if (!text) {
        PyErr_Clear();
        return put_text(to, "0");
    }
    to = put(to, text, strlen(text));
    PyMem_Free(text);
    return to;
}

static int make_room(struct lines *self, size_t more) {
    if (self->room - self->used >= more)
        return 1;
    size_t room = 2 * self->room + more + 4096;
    unsigned char *text = PyMem_Realloc(self->text, room);
    if (!text)
        return 0;
    self->text = text;
    self->room = room;
    return 1;
}

void lines_add(PyObject *lines, const struct line *line) {
    struct lines *self = (struct lines *)lines;
    size_t given = line->client.size + line->quoted.size + line->app.size + line->cache.size + line->id.size;
    if (self->count >= self->most || !make_room(self, given + LINE_MAX_BESIDE)) {
        self->dropped++;
        return;
    }
    unsigned char *to = put_text(self->text + self->used, "{\"time\":");
    to = put_fixed(to, line->at, 3);
    to = put_text(to, ",\"client\":\"");
    to = put(to, line->client.at, line->client.size);
    to = put_text(to, "\",");
    to = put(to, line->quoted.at, line->quoted.size);
    to = put_text(to, ",\"app\":\"");
    to = put(to, line->app.at, line->app.size);
    to = put_text(to, "\",\"status\":");
    to = put_number(to, line->status);
    to = put_text(to, ",\"bytes\":");
    to = put_number(to, line->size);
    to = put_text(to, ",\"duration_s\":");
    to = put_fixed(to, line->took_s, 6);
    to = put_text(to, ",\"cache\":\"");
    to = put(to, line->cache.at, line->cache.size);
    to = put_text(to, "\",\"request_id\":\"");
    to = put(to, line->id.at, line->id.size);
    to = put_text(to, "\"}\n");
    self->used = (size_t)(to - self->text);
    self->count++;
}

static PyObject *add(PyObject *self, PyObject *args) {
    struct line line;
    const char *texts[5];
    Py_ssize_t sizes[5];
    if (!PyArg_ParseTuple(args, "dy#y#s#lLdy#y#", &line.at, &texts[0], &sizes[0], &texts[1], &sizes[1], &texts[2],
                          &sizes[2], &line.status, &line.size, &line.took_s, &texts[3], &sizes[3], &texts[4],
                          &sizes[4]))
        return NULL;
    struct span *places[5] = {&line.client, &line.quoted, &line.app, &line.cache, &line.id};
    for (int i = 0; i < 5; i++)
        *places[i] = (struct span){(const unsigned char *)texts[i], (size_t)sizes[i]};
    lines_add(self, &line);
    Py_RETURN_NONE;
}

static PyObject *take(PyObject *object, PyObject *ignored) {
    (void)ignored;
    struct lines *self = (struct lines *)object;
    PyObject *taken = PyBytes_FromStringAndSize((const char *)self->text, (Py_ssize_t)self->used);
    if (!taken)
        return NULL;
    self->used = 0;
    self->count = 0;
    if (self->room > ROOM_KEPT) {
        PyMem_Free(self->text);
        self->text = NULL;
        self->room = 0;
    }
    return taken;
}

static PyObject *dropped(PyObject *self, void *ignored) {
    (void)ignored;
    return PyLong_FromSsize_t(((struct lines *)self)->dropped);
}

static PyObject *made(PyTypeObject *type, PyObject *args, PyObject *names) {
    (void)names;
    Py_ssize_t most;
    if (!PyArg_ParseTuple(args, "n", &most))
        return NULL;
    struct lines *self = (struct lines *)type->tp_alloc(type, 0);
    if (self)
        self->most = most;
    return (PyObject *)self;
}

static void freed(PyObject *self) {
    PyMem_Free(((struct lines *)self)->text);
    Py_TYPE(self)->tp_free(self);
}

static PyMethodDef methods[] = {
    {"add", add, METH_VARARGS, "add(at, client, quoted, app, status, size, took_s, cache, request_id)"},
    {"take", take, METH_NOARGS, "What has gathered; it is gone from here."},
    {NULL, NULL, 0, NULL},
};
static PyGetSetDef attributes[] = {
    {"dropped", dropped, NULL, "Lines that were too many.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

PyTypeObject LinesType = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "agent.edge._quick.Lines",
    .tp_basicsize = sizeof(struct lines),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_doc = "Lines(most): lines of the access log.",
    .tp_new = made,
    .tp_dealloc = freed,
    .tp_methods = methods,
    .tp_getset = attributes,
};
