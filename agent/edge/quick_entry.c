/* A stored response out of its stored form: `entry_codec.decode` for whole entries without variants. */
#include "quick.h"
#include <math.h>

#define MAGIC "LCC4"
#define MAGIC_SIZE 4
#define DIGEST 16
#define KEY_DIGEST 32
#define HEAD_SIZE 55 /* >HBQQQQddHH */
#define PIECES_MAX 400
#define OVERHEAD 1200   /* OVERHEAD_BYTES in entry.py */
#define FIELD_BESIDE 120 /* restore in entry.py */

PyObject *entry_model, *restore_in_python, *verdict_in_python;

struct stored {
    unsigned status, flags, keyed, fields;
    uint64_t lifetime_s, while_revalidate_s, if_error_s, sequence;
    double time, age;
    struct span pieces[PIECES_MAX], body;
    unsigned count;
};

static uint64_t number_at(const unsigned char *at, int bytes) {
    uint64_t number = 0;
    for (int i = 0; i < bytes; i++)
        number = number << 8 | at[i];
    return number;
}

static double double_at(const unsigned char *at) {
    uint64_t bits = number_at(at, 8);
    double number;
    memcpy(&number, &bits, sizeof number);
    return number;
}

/* Takes the content apart; 0 when it is not whole, or has more than is common. */
static int take_apart(struct stored *stored, struct span content) {
    const unsigned char *at = content.at;
    if (content.size < HEAD_SIZE)
        return 0;
    stored->status = (unsigned)number_at(at, 2);
    stored->flags = at[2];
    stored->lifetime_s = number_at(at + 3, 8);
    stored->while_revalidate_s = number_at(at + 11, 8);
    stored->if_error_s = number_at(at + 19, 8);
    stored->sequence = number_at(at + 27, 8);
    stored->time = double_at(at + 35);
    stored->age = double_at(at + 43);
    stored->keyed = (unsigned)number_at(at + 51, 2);
    stored->fields = (unsigned)number_at(at + 53, 2);
    stored->count = 2 + stored->keyed + 2 * stored->fields;
    size_t begin = HEAD_SIZE + 4 * (size_t)stored->count;
    if (stored->count > PIECES_MAX || begin > content.size || stored->keyed)
        return 0;
    size_t left = content.size - begin;
    const unsigned char *piece = at + begin;
    for (unsigned i = 0; i < stored->count; i++) {
        size_t size = (size_t)number_at(at + HEAD_SIZE + 4 * i, 4);
        if (size > left)
            return 0;
        stored->pieces[i] = (struct span){piece, size};
        piece += size;
        left -= size;
    }
    stored->body = (struct span){piece, left};
    return isfinite(stored->time) && isfinite(stored->age);
}

/* Whether the sum says that these bytes lie under that key. */
static int is_whole(struct span key, struct span digest, struct span content) {
    unsigned char of_key[KEY_DIGEST], found[DIGEST];
    blake2b(of_key, KEY_DIGEST, (struct span){NULL, 0}, key);
    blake2b(found, DIGEST, (struct span){of_key, KEY_DIGEST}, content);
    return !memcmp(found, digest.at, DIGEST);
}

static int is_named(struct span name, const char *lower) {
    size_t size = strlen(lower);
    if (name.size != size)
        return 0;
    for (size_t i = 0; i < size; i++)
        if ((name.at[i] | (name.at[i] >= 'A' && name.at[i] <= 'Z' ? 0x20 : 0)) != (unsigned char)lower[i])
            return 0;
    return 1;
}

static struct span stripped(struct span value) {
    while (value.size && (*value.at == ' ' || *value.at == '\t'))
        value.at++, value.size--;
    while (value.size && (value.at[value.size - 1] == ' ' || value.at[value.size - 1] == '\t'))
        value.size--;
    return value;
}

static PyObject *bytes_of(struct span span) {
    return PyBytes_FromStringAndSize((const char *)span.at, (Py_ssize_t)span.size);
}

/* What is derived from fields; 0 when `restore` in Python has to look at them. */
static int derive(const struct stored *stored, struct span *etag, struct span *modified, size_t *fields_size) {
    int etags = 0, modifieds = 0;
    for (unsigned i = 2; i < stored->count; i += 2) {
        struct span name = stored->pieces[i], value = stored->pieces[i + 1];
        *fields_size += name.size + value.size;
        if (is_named(name, "vary"))
            return 0;
        if (is_named(name, "etag"))
            *etag = stripped(value), etags++;
        if (is_named(name, "last-modified"))
            *modified = stripped(value), modifieds++;
    }
    return etags < 2 && modifieds < 2;
}

static PyObject *headers_of(const struct stored *stored) {
    PyObject *headers = PyList_New(stored->fields);
    for (unsigned i = 0; headers && i < stored->fields; i++) {
        PyObject *name = bytes_of(stored->pieces[2 + 2 * i]), *value = bytes_of(stored->pieces[3 + 2 * i]);
        PyObject *pair = name && value ? PyTuple_Pack(2, name, value) : NULL;
        Py_XDECREF(name);
        Py_XDECREF(value);
        if (!pair)
            Py_CLEAR(headers);
        else
            PyList_SET_ITEM(headers, i, pair);
    }
    return headers;
}

/* As `StoredResponse.fix`. */
static PyObject *fixed_of(const struct stored *stored, size_t fields_size) {
    static const char name[] = "Content-Length: ";
    char digits[DIGITS];
    struct span length = decimal(digits, (int64_t)stored->body.size);
    int counted = stored->status != 204;
    size_t size = 2 + fields_size + 4 * stored->fields + (counted ? sizeof name - 1 + length.size + 2 : 0);
    PyObject *fixed = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
    if (!fixed)
        return NULL;
    unsigned char *to = put_text((unsigned char *)PyBytes_AS_STRING(fixed), "\r\n");
    for (unsigned i = 2; i < stored->count; i += 2) {
        to = put(to, stored->pieces[i].at, stored->pieces[i].size);
        to = put_text(to, ": ");
        to = put(to, stored->pieces[i + 1].at, stored->pieces[i + 1].size);
        to = put_text(to, "\r\n");
    }
    if (counted) {
        to = put_text(to, name);
        to = put(to, length.at, length.size);
        put_text(to, "\r\n");
    }
    return fixed;
}

/* Puts a new object in a slot; 0 on success. */
static int fill(PyObject *entry, enum slot slot, PyObject *value) {
    if (value)
        set_slot(entry, slot, value);
    return value ? 0 : -1;
}

static int fill_all(PyObject *entry, const struct stored *stored) {
    PyObject *verdict = PyObject_CallFunction(verdict_in_python, "KIKK", (unsigned long long)stored->lifetime_s,
                                              stored->flags, (unsigned long long)stored->while_revalidate_s,
                                              (unsigned long long)stored->if_error_s);
    return fill(entry, ENTRY_verdict, verdict) || fill(entry, ENTRY_status, PyLong_FromLong(stored->status)) ||
           fill(entry, ENTRY_reason, bytes_of(stored->pieces[0])) ||
           fill(entry, ENTRY_coding, bytes_of(stored->pieces[1])) || fill(entry, ENTRY_headers, headers_of(stored)) ||
           fill(entry, ENTRY_body, bytes_of(stored->body)) ||
           fill(entry, ENTRY_response_time, PyFloat_FromDouble(stored->time)) ||
           fill(entry, ENTRY_initial_age_s, PyFloat_FromDouble(stored->age)) ||
           fill(entry, ENTRY_sequence, PyLong_FromUnsignedLongLong(stored->sequence));
}

static int fill_derived(PyObject *entry, const struct stored *stored) {
    struct span etag = {NULL, 0}, modified = {NULL, 0};
    size_t size = 0;
    if (!derive(stored, &etag, &modified, &size)) {
        PyObject *done = PyObject_CallOneArg(restore_in_python, entry);
        Py_XDECREF(done);
        return done ? 0 : -1;
    }
    double until = stored->flags & 1 ? 0.0 : stored->time - stored->age + (double)stored->lifetime_s;
    size_t cost = OVERHEAD + stored->body.size + 3 * (size + FIELD_BESIDE * (size_t)stored->fields);
    return fill(entry, ENTRY_etag, bytes_of(etag)) || fill(entry, ENTRY_last_modified, bytes_of(modified)) ||
           fill(entry, ENTRY_fresh_until, PyFloat_FromDouble(until)) ||
           fill(entry, ENTRY_cost_bytes, PyLong_FromSize_t(cost)) ||
           fill(entry, ENTRY_fixed, fixed_of(stored, size));
}

PyObject *quick_decode(PyObject *self, PyObject *const *args, Py_ssize_t count) {
    (void)self;
    if (count != 2 || !PyBytes_Check(args[0]) || !PyBytes_Check(args[1]) || !entry_model) {
        PyErr_SetString(PyExc_TypeError, "decode(key, data) takes two times bytes, after bind");
        return NULL;
    }
    struct span key = span_of(args[0]), data = span_of(args[1]);
    if (data.size < MAGIC_SIZE + DIGEST || memcmp(data.at, MAGIC, MAGIC_SIZE))
        Py_RETURN_NONE;
    struct span digest = {data.at + MAGIC_SIZE, DIGEST};
    struct span content = {digest.at + DIGEST, data.size - MAGIC_SIZE - DIGEST};
    struct stored stored;
    if (!take_apart(&stored, content) || !is_whole(key, digest, content))
        Py_RETURN_NONE;
    PyObject *entry = copy_of(entry_model, ENTRY);
    if (!entry || fill_all(entry, &stored) || fill_derived(entry, &stored))
        Py_CLEAR(entry);
    return entry;
}
