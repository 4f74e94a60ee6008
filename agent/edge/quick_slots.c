/* Where Python's objects keep their attributes. Classes with `__slots__` have a descriptor for each, which says at
 * which place of an object it lies: what is read there needs no look-up. `bind` refuses classes that do not have them.
 */
#include "quick.h"
#include <structmember.h>

PyTypeObject *class_of[CLASS_COUNT];
Py_ssize_t offset_of[SLOT_COUNT];
PyObject *client_in_python, *upstream_in_python, *whole_in_python;
double latency_floor_s, idle_s_max;
Py_ssize_t idle_most;

#define AS_NAME(name, text) text,
static const char *const class_names[] = {CLASSES(AS_NAME)};
#define AS_PAIR(class, name) {class, #name},
static const struct {
    enum class class;
    const char *name;
} slots[] = {SLOTS(AS_PAIR)};

#define COPIED_MAX 32
/* All slots of the classes of which copies are made. */
static struct {
    Py_ssize_t offsets[COPIED_MAX];
    int count;
} copied[CLASS_COUNT];

static PyMemberDef *member_of(PyTypeObject *type, const char *name) {
    PyObject *found = PyObject_GetAttrString((PyObject *)type, name);
    if (!found)
        return NULL;
    PyMemberDef *member = NULL;
    if (Py_TYPE(found) == &PyMemberDescr_Type)
        member = ((PyMemberDescrObject *)found)->d_member;
    Py_DECREF(found); /* the class keeps it */
    if (!member || member->type != T_OBJECT_EX) {
        PyErr_Format(PyExc_TypeError, "%s.%s is no slot", type->tp_name, name);
        return NULL;
    }
    return member;
}

static int find_copied(enum class class) {
    PyTypeObject *type = class_of[class];
    PyObject *names = PyObject_GetAttrString((PyObject *)type, "__slots__");
    if (!names)
        return -1;
    copied[class].count = 0;
    if (!PyTuple_Check(names) || PyTuple_GET_SIZE(names) > COPIED_MAX || type->tp_base != &PyBaseObject_Type) {
        PyErr_Format(PyExc_TypeError, "%s is not a class of a few slots", type->tp_name);
        goto failed;
    }
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(names); i++) {
        const char *name = PyUnicode_AsUTF8(PyTuple_GET_ITEM(names, i));
        PyMemberDef *member = name ? member_of(type, name) : NULL;
        if (!member)
            goto failed;
        copied[class].offsets[copied[class].count++] = member->offset;
    }
    Py_DECREF(names);
    return 0;
failed:
    Py_DECREF(names);
    return -1;
}

PyObject *copy_of(PyObject *object, enum class class) {
    PyTypeObject *type = class_of[class];
    PyObject *copy = type->tp_alloc(type, 0);
    for (int i = 0; copy && i < copied[class].count; i++) {
        Py_ssize_t offset = copied[class].offsets[i];
        PyObject *value = *(PyObject **)((char *)object + offset);
        Py_XINCREF(value);
        *(PyObject **)((char *)copy + offset) = value;
    }
    return copy;
}

int add_to_slot(PyObject *object, enum slot slot, long long more) {
    PyObject *before = SLOT(object, slot);
    long long number = before ? PyLong_AsLongLong(before) : 0;
    if (number == -1 && PyErr_Occurred())
        return -1;
    PyObject *after = PyLong_FromLongLong(number + more);
    if (!after)
        return -1;
    set_slot(object, slot, after);
    return 0;
}

static void keep(PyObject **place, PyObject *value) {
    Py_INCREF(value);
    Py_XSETREF(*place, value);
}

static int find_slots(PyObject *classes) {
    for (int i = 0; i < CLASS_COUNT; i++) {
        PyObject *type = PyDict_GetItemString(classes, class_names[i]);
        if (!type || !PyType_Check(type)) {
            PyErr_Format(PyExc_TypeError, "the class %s is missing", class_names[i]);
            return -1;
        }
        keep((PyObject **)&class_of[i], type);
    }
    for (int i = 0; i < SLOT_COUNT; i++) {
        PyMemberDef *member = member_of(class_of[slots[i].class], slots[i].name);
        if (!member)
            return -1;
        offset_of[i] = member->offset;
    }
    return find_copied(REQUEST) < 0 || find_copied(ENTRY) < 0 ? -1 : 0;
}

PyObject *quick_bind(PyObject *self, PyObject *args) {
    (void)self;
    PyObject *classes, *client, *upstream, *whole, *model, *restore, *verdict;
    if (!PyArg_ParseTuple(args, "O!OOOOOOddn", &PyDict_Type, &classes, &client, &upstream, &whole, &model, &restore,
                          &verdict, &latency_floor_s, &idle_s_max, &idle_most) ||
        find_slots(classes) < 0)
        return NULL;
    if (!IS(model, ENTRY))
        return PyErr_Format(PyExc_TypeError, "the model is no entry");
    keep(&client_in_python, client);
    keep(&upstream_in_python, upstream);
    keep(&whole_in_python, whole);
    keep(&entry_model, model);
    keep(&restore_in_python, restore);
    keep(&verdict_in_python, verdict);
    Py_RETURN_NONE;
}
