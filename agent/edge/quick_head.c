/* Rewrites the head of an endpoint's response for a client: the common kind only, in one pass and into one buffer.
 *
 * It decides nothing that Python would decide otherwise: whatever is not plainly simple (a coding, no length or two, a
 * nominated field, folding, odd white space, a head that is not whole) is left to the parser and the rules in Python,
 * which give the same bytes for what is taken here. RFC 9112 sections 4 to 6, RFC 9110 section 7.6.
 */
#include "quick.h"

#define LENGTH_DIGITS_MAX 15

/* 1: may stand in a field's name; 2: may stand in a value or a reason. */
static unsigned char kinds[256];

static void fill_kinds(void) {
    static const char token[] = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    for (const char *c = token; *c; c++)
        kinds[(unsigned char)*c] = 1;
    for (int c = 0x20; c < 256; c++)
        if (c != 0x7f)
            kinds[c] |= 2;
    kinds['\t'] |= 2;
}

enum fate { KEPT, DROPPED, LENGTH, DATE, VIA, CACHE_STATUS, CONNECTION, STRANGE };

struct rule {
    const char *name;
    enum fate fate;
};

/* Fields that are not simply kept, all in lower case; by length, to find most of the others kept at a glance. */
static const struct rule rules[] = {
    {"te", STRANGE},
    {"via", VIA},
    {"date", DATE},
    {"trailer", STRANGE},
    {"upgrade", STRANGE},
    {"locci-hop", STRANGE},
    {"connection", CONNECTION},
    {"keep-alive", DROPPED},
    {"x-request-id", DROPPED},
    {"cache-status", CACHE_STATUS},
    {"content-length", LENGTH},
    {"proxy-connection", STRANGE},
    {"transfer-encoding", STRANGE},
    {"proxy-authenticate", STRANGE},
    {"proxy-authorization", STRANGE},
};
#define RULES (sizeof rules / sizeof *rules)
#define RULED_MAX 32
static unsigned char first_of_length[RULED_MAX + 1], count_of_length[RULED_MAX + 1];

static void fill_lengths(void) {
    for (unsigned i = 0; i < RULES; i++) {
        size_t length = strlen(rules[i].name);
        if (!count_of_length[length]++)
            first_of_length[length] = (unsigned char)i;
    }
}

static enum fate fate_of(const unsigned char *name, size_t length) {
    if (length > RULED_MAX)
        return KEPT;
    for (unsigned i = 0; i < count_of_length[length]; i++) {
        const struct rule *rule = &rules[first_of_length[length] + i];
        size_t at = 0;
        while (at < length && (name[at] | (name[at] >= 'A' && name[at] <= 'Z' ? 0x20 : 0)) == (unsigned char)rule->name[at])
            at++;
        if (at == length)
            return rule->fate;
    }
    return KEPT;
}

/* What a reader needs to know of a line: where its value begins and ends. NULL when the line is not simple. */
static const unsigned char *end_of_value(const unsigned char *at, const unsigned char *end) {
    while (at < end && kinds[*at] & 2)
        at++;
    return end - at >= 2 && at[0] == '\r' && at[1] == '\n' ? at : NULL;
}

static int read_length(struct head *head, struct span value) {
    if (head->length >= 0 || value.size == 0 || value.size > LENGTH_DIGITS_MAX)
        return 0;
    int64_t length = 0;
    for (size_t i = 0; i < value.size; i++) {
        if (value.at[i] < '0' || value.at[i] > '9')
            return 0;
        length = 10 * length + (value.at[i] - '0');
    }
    head->length = length;
    return 1;
}

/* Takes one field; 0 when it is not for us. `copied` is where kept lines go, or NULL when they are only counted. */
static int take_field(struct head *head, const unsigned char *line, struct span name, struct span value,
                      unsigned char **copied) {
    enum fate fate = fate_of(name.at, name.size);
    switch (fate) {
    case STRANGE:
        return 0;
    case DROPPED:
        return 1;
    case LENGTH:
        return copied ? 1 : read_length(head, value);
    case CONNECTION:
        return value.size == 10 && !memcmp(value.at, "keep-alive", 10);
    case VIA:
    case CACHE_STATUS:
        if (!copied) {
            struct span *seen = fate == VIA ? &head->via : &head->cache_status;
            if (seen->at || !value.size)
                return 0;
            *seen = value;
        }
        return 1;
    case DATE:
        head->has_date = 1;
        break;
    case KEPT:
        break;
    }
    size_t size = (size_t)(value.at + value.size + 2 - line);
    if (copied) {
        memcpy(*copied, line, size);
        *copied += size;
    } else {
        head->kept += size;
    }
    return 1;
}

/* Reads the fields from `at`; their end, or NULL when there is one that is not simple, or no end. */
static const unsigned char *read_fields(struct head *head, const unsigned char *at, const unsigned char *end,
                                        unsigned char **copied) {
    for (;;) {
        if (end - at < 2)
            return NULL;
        if (at[0] == '\r')
            return at[1] == '\n' ? at + 2 : NULL;
        const unsigned char *line = at;
        while (at < end && kinds[*at] & 1)
            at++;
        struct span name = {line, (size_t)(at - line)};
        if (!name.size || end - at < 2 || at[0] != ':' || at[1] != ' ')
            return NULL;
        struct span value = {at + 2, 0};
        const unsigned char *stop = end_of_value(value.at, end);
        if (!stop)
            return NULL;
        value.size = (size_t)(stop - value.at);
        if (value.size && (value.at[0] == ' ' || value.at[0] == '\t' || stop[-1] == ' ' || stop[-1] == '\t'))
            return NULL;
        if (!take_field(head, line, name, value, copied))
            return NULL;
        at = stop + 2;
    }
}

#define START 13 /* HTTP/1.1 200_ */

int head_read(struct head *head, struct span whole) {
    const unsigned char *data = whole.at, *end = data + whole.size;
    *head = (struct head){.length = -1, .end = end};
    if (whole.size < START + 4 || memcmp(data, "HTTP/1.1 ", 9) || data[12] != ' ')
        return 0;
    for (int i = 9; i < 12; i++)
        if (data[i] < '0' || data[i] > '9')
            return 0;
    head->status = 100 * (data[9] - '0') + 10 * (data[10] - '0') + (data[11] - '0');
    if (head->status < 200 || head->status > 599 || head->status == 204 || head->status == 304)
        return 0;
    const unsigned char *reason_end = end_of_value(data + START, end);
    if (!reason_end || reason_end == data + START)
        return 0;
    head->fields = reason_end + 2;
    head->body = read_fields(head, head->fields, end, NULL);
    return head->body && head->length >= 0 && end - head->body <= head->length;
}

static unsigned char *put_list(unsigned char *to, const char *name, struct span before, struct span last) {
    to = put(to, name, strlen(name));
    if (before.size) {
        to = put(to, before.at, before.size);
        to = put(to, ", ", 2);
    }
    to = put(to, last.at, last.size);
    return put(to, "\r\n", 2);
}

static size_t size_of_list(const char *name, struct span before, struct span last) {
    return strlen(name) + (before.size ? before.size + 2 : 0) + last.size + 2;
}

/* The fields that are ours, with what comes before the value and the value. */
struct own {
    const char *name;
    struct span before, last;
};
#define OWN_MAX 5

static const struct span NOTHING = {NULL, 0}, OURS = {(const unsigned char *)"1.1 locci", 9};

PyObject *head_written(struct head *head, struct span data, struct span member, struct span id, struct span date) {
    char digits[DIGITS];
    struct own own[OWN_MAX];
    int owned = 0;
    if (!head->has_date)
        own[owned++] = (struct own){"Date: ", NOTHING, date};
    own[owned++] = (struct own){"Via: ", head->via, OURS};
    own[owned++] = (struct own){"Cache-Status: ", head->cache_status, member};
    own[owned++] = (struct own){"X-Request-Id: ", NOTHING, id};
    own[owned++] = (struct own){"Content-Length: ", NOTHING, decimal(digits, head->length)};
    size_t line = (size_t)(head->fields - data.at), body = (size_t)(head->end - head->body);
    size_t room = line + head->kept + 2 + body;
    for (int i = 0; i < owned; i++)
        room += size_of_list(own[i].name, own[i].before, own[i].last);
    PyObject *out = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)room);
    if (!out)
        return NULL;
    unsigned char *to = put((unsigned char *)PyBytes_AS_STRING(out), data.at, line);
    read_fields(head, head->fields, head->end, &to);
    for (int i = 0; i < owned; i++)
        to = put_list(to, own[i].name, own[i].before, own[i].last);
    to = put(to, "\r\n", 2);
    put(to, head->body, body);
    return out;
}

PyObject *quick_rewritten(PyObject *self, PyObject *const *args, Py_ssize_t count) {
    (void)self;
    if (count != 4 || !PyBytes_Check(args[0]) || !PyBytes_Check(args[1]) || !PyBytes_Check(args[2]) ||
        !PyBytes_Check(args[3])) {
        PyErr_SetString(PyExc_TypeError, "rewritten(data, member, request_id, date) takes four times bytes");
        return NULL;
    }
    struct head head;
    if (!head_read(&head, span_of(args[0])))
        Py_RETURN_NONE;
    PyObject *out = head_written(&head, span_of(args[0]), span_of(args[1]), span_of(args[2]), span_of(args[3]));
    if (!out)
        return NULL;
    return Py_BuildValue("(NiLn)", out, head.status, (long long)head.length, (Py_ssize_t)(head.end - head.body));
}

void head_setup(void) {
    fill_kinds();
    fill_lengths();
}
