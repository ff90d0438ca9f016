/* The instructions of a circuit as bytes and back, over Qiskit's C API.
 *
 * Packed: the number of instructions, of indices, of parameters and of bytes of labels (four uint64), then four columns:
 * the parameters (double), the indices of bits (uint32; before those of a barrier their number), the kinds (uint8), and
 * the labels (number of the instruction and bytes of UTF-8, two uint64, then these). Columns compress better than
 * records. Numbers are of this machine's byte order: the bytes live as long as a job.
 */
#define PY_SSIZE_T_CLEAN
#define QISKIT_PYTHON_EXTENSION
#include <Python.h>
#include <qiskit.h>

enum { MEASURE = 200, RESET = 201, BARRIER = 202, UNKNOWN = 255 };

static const struct {
    const char *name;
    uint8_t length;
    uint8_t gate;
} GATES[] = {
#define GATE(name, gate) {name, sizeof(name) - 1, QkGate_##gate}
    /* What devices run first: it is what long circuits are made of. */
    GATE("sx", SX), GATE("rz", RZ), GATE("cz", CZ), GATE("x", X), GATE("ecr", ECR), GATE("cx", CX), GATE("rx", RX),
    GATE("rzz", RZZ), GATE("h", H), GATE("id", I), GATE("y", Y), GATE("z", Z), GATE("p", Phase), GATE("r", R),
    GATE("ry", RY), GATE("s", S), GATE("sdg", Sdg), GATE("sxdg", SXdg), GATE("t", T), GATE("tdg", Tdg), GATE("u", U),
    GATE("u1", U1), GATE("u2", U2), GATE("u3", U3), GATE("ch", CH), GATE("cy", CY), GATE("dcx", DCX),
    GATE("swap", Swap), GATE("iswap", ISwap), GATE("cp", CPhase), GATE("crx", CRX), GATE("cry", CRY),
    GATE("crz", CRZ), GATE("cs", CS), GATE("csdg", CSdg), GATE("csx", CSX), GATE("cu", CU), GATE("cu1", CU1),
    GATE("cu3", CU3), GATE("rxx", RXX), GATE("ryy", RYY), GATE("rzx", RZX), GATE("xx_minus_yy", XXMinusYY),
    GATE("xx_plus_yy", XXPlusYY), GATE("ccx", CCX), GATE("ccz", CCZ), GATE("cswap", CSwap), GATE("rccx", RCCX),
#undef GATE
};
enum { GATES_KNOWN = sizeof(GATES) / sizeof(GATES[0]), MOST_QUBITS = 3, MOST_PARAMS = 4, LAST_GATE = 51 };

/* A column that grows. */
typedef struct {
    char *bytes;
    size_t used, size;
} Column;

static int add(Column *column, const void *bytes, size_t count) {
    if (column->used + count > column->size) {
        size_t size = 2 * column->size + count + 1024;
        char *grown = PyMem_Realloc(column->bytes, size);
        if (grown == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        column->bytes = grown;
        column->size = size;
    }
    memcpy(column->bytes + column->used, bytes, count);
    column->used += count;
    return 0;
}

static uint8_t kind_of(const QkCircuit *circuit, size_t number, const QkCircuitInstructionView *view) {
    switch (qk_circuit_instruction_kind(circuit, number)) {
    case QkOperationKind_Measure:
        return MEASURE;
    case QkOperationKind_Reset:
        return RESET;
    case QkOperationKind_Barrier:
        return BARRIER;
    case QkOperationKind_Gate:
        for (size_t i = 0; i < GATES_KNOWN; i++)
            if (view->name_len == GATES[i].length && memcmp(view->name, GATES[i].name, view->name_len) == 0)
                return GATES[i].gate;
        return UNKNOWN;
    default:
        return UNKNOWN;
    }
}

static PyObject *label_name;

/* Adds the label of an instruction, if it has one: what C sees of an instruction doesn't tell. */
static int add_label(PyObject *data, size_t number, Column *column) {
    PyObject *label = NULL, *instruction = PySequence_GetItem(data, (Py_ssize_t)number);
    int result = -1;
    if (instruction == NULL || (label = PyObject_GetAttr(instruction, label_name)) == NULL)
        goto end;
    if (label == Py_None) {
        result = 0;
        goto end;
    }
    Py_ssize_t length;
    const char *text = PyUnicode_AsUTF8AndSize(label, &length);
    if (text == NULL)
        goto end;
    uint64_t head[2] = {number, (uint64_t)length};
    if (add(column, head, sizeof head) == 0)
        result = add(column, text, (size_t)length);
end:
    Py_XDECREF(label);
    Py_XDECREF(instruction);
    return result;
}

/* Adds the parameters of a gate. Returns 1 when all are floats, 0 when one is not, -1 with an exception set. */
static int add_params(const QkCircuitInstructionView *view, Column *column) {
    const char *param = (const char *)view->params;
    size_t stride = view->num_params ? qk_param_stride() : 0;
    for (uint32_t i = 0; i < view->num_params; i++, param += stride) {
        if (qk_param_kind((const QkParam *)param) != QkParamKind_Real)
            return 0;
        double real = qk_param_as_real((const QkParam *)param);
        if (add(column, &real, sizeof real) < 0)
            return -1;
    }
    return 1;
}

typedef struct {
    Column params, indices, kinds, labels;
} Columns;

static PyObject *joined(const Columns *columns) {
    const Column *in_order[4] = {&columns->params, &columns->indices, &columns->kinds, &columns->labels};
    uint64_t counts[4] = {columns->kinds.used, columns->indices.used / sizeof(uint32_t),
                          columns->params.used / sizeof(double), columns->labels.used};
    size_t size = sizeof counts;
    for (int i = 0; i < 4; i++)
        size += in_order[i]->used;
    PyObject *packed = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
    if (packed == NULL)
        return NULL;
    char *to = PyBytes_AS_STRING(packed);
    memcpy(to, counts, sizeof counts);
    to += sizeof counts;
    for (int i = 0; i < 4; i++) {
        if (in_order[i]->used)
            memcpy(to, in_order[i]->bytes, in_order[i]->used);
        to += in_order[i]->used;
    }
    return packed;
}

/* Adds an instruction to the columns. Returns 1, 0 when they have no room for such, -1 with an exception set. */
static int add_instruction(const QkCircuit *circuit, size_t number, Columns *columns) {
    QkCircuitInstructionView view;
    qk_circuit_view_instruction(circuit, number, &view);
    uint8_t kind = kind_of(circuit, number, &view);
    if (kind == UNKNOWN)
        return 0;
    if (add(&columns->kinds, &kind, sizeof kind) < 0)
        return -1;
    if (kind == BARRIER && add(&columns->indices, &view.num_qubits, sizeof view.num_qubits) < 0)
        return -1;
    if (add(&columns->indices, view.qubits, view.num_qubits * sizeof(uint32_t)) < 0 ||
        add(&columns->indices, view.clbits, view.num_clbits * sizeof(uint32_t)) < 0)
        return -1;
    return kind < MEASURE ? add_params(&view, &columns->params) : 1;
}

static PyObject *pack(PyObject *Py_UNUSED(module), PyObject *data) {
    QkCircuit *circuit = qk_circuit_borrow_from_python(data);
    if (circuit == NULL)
        return NULL;
    Columns columns = {0};
    PyObject *packed = NULL;
    size_t count = qk_circuit_num_instructions(circuit);
    int held = 1;
    for (size_t number = 0; number < count && held == 1; number++)
        held = add_instruction(circuit, number, &columns);
    /* Labels come last: they cost more than all else, and Python may do anything while it makes its object. */
    for (size_t number = 0; number < count && held == 1; number++)
        held = add_label(data, number, &columns.labels) < 0 ? -1 : 1;
    if (held == 1)
        packed = joined(&columns);
    else if (held == 0)
        packed = Py_NewRef(Py_None);
    PyMem_Free(columns.params.bytes);
    PyMem_Free(columns.indices.bytes);
    PyMem_Free(columns.kinds.bytes);
    PyMem_Free(columns.labels.bytes);
    return packed;
}

/* Where reading the columns stands. */
typedef struct {
    const char *indices, *params, *kinds, *labels;
    uint64_t indices_left, params_left, kinds_left, labels_left;
    uint32_t qubits, clbits;
} Reader;

/* Copies the next indices out; they are the circuit's, and a gate names none of them twice. */
static int take_indices(Reader *reader, uint32_t *to, uint32_t count, uint32_t below) {
    if (reader->indices_left < count)
        return -1;
    memcpy(to, reader->indices, count * sizeof *to);
    reader->indices += count * sizeof *to;
    reader->indices_left -= count;
    for (uint32_t i = 0; i < count; i++) {
        if (to[i] >= below)
            return -1;
        if (count <= MOST_QUBITS)
            for (uint32_t j = 0; j < i; j++)
                if (to[i] == to[j])
                    return -1;
    }
    return 0;
}

static int append_barrier(QkCircuit *circuit, Reader *reader) {
    uint32_t count;
    if (take_indices(reader, &count, 1, UINT32_MAX) < 0 || count > reader->qubits)
        return -1;
    uint32_t *qubits = PyMem_Malloc((count + 1) * sizeof *qubits);
    if (qubits == NULL)
        return -1;
    int result = take_indices(reader, qubits, count, reader->qubits);
    if (result == 0)
        result = qk_circuit_barrier(circuit, qubits, count) == QkExitCode_Success ? 0 : -1;
    PyMem_Free(qubits);
    return result;
}

static int append_gate(QkCircuit *circuit, Reader *reader, uint8_t gate) {
    uint32_t qubits[MOST_QUBITS], width = qk_gate_num_qubits(gate), count = qk_gate_num_params(gate);
    double params[MOST_PARAMS];
    if (width > MOST_QUBITS || count > MOST_PARAMS || reader->params_left < count ||
        take_indices(reader, qubits, width, reader->qubits) < 0)
        return -1;
    memcpy(params, reader->params, count * sizeof *params);
    reader->params += count * sizeof *params;
    reader->params_left -= count;
    return qk_circuit_gate(circuit, gate, qubits, params) == QkExitCode_Success ? 0 : -1;
}

static int append_next(QkCircuit *circuit, Reader *reader) {
    uint8_t kind = (uint8_t)*reader->kinds++;
    uint32_t qubit, clbit;
    reader->kinds_left--;
    if (kind == BARRIER)
        return append_barrier(circuit, reader);
    if (kind <= LAST_GATE)
        return append_gate(circuit, reader, kind);
    if ((kind != MEASURE && kind != RESET) || take_indices(reader, &qubit, 1, reader->qubits) < 0)
        return -1;
    if (kind == RESET)
        return qk_circuit_reset(circuit, qubit) == QkExitCode_Success ? 0 : -1;
    if (take_indices(reader, &clbit, 1, reader->clbits) < 0)
        return -1;
    return qk_circuit_measure(circuit, qubit, clbit) == QkExitCode_Success ? 0 : -1;
}

static int open_columns(Reader *reader, const Py_buffer *packed) {
    uint64_t counts[4], limit = (uint64_t)packed->len;
    if (limit < sizeof counts)
        return -1;
    memcpy(counts, packed->buf, sizeof counts);
    if (counts[0] > limit || counts[1] > limit || counts[2] > limit || counts[3] > limit ||
        sizeof counts + counts[2] * sizeof(double) + counts[1] * sizeof(uint32_t) + counts[0] + counts[3] != limit)
        return -1;
    reader->params = (const char *)packed->buf + sizeof counts;
    reader->indices = reader->params + counts[2] * sizeof(double);
    reader->kinds = reader->indices + counts[1] * sizeof(uint32_t);
    reader->labels = reader->kinds + counts[0];
    reader->kinds_left = counts[0];
    reader->labels_left = counts[3];
    reader->indices_left = counts[1];
    reader->params_left = counts[2];
    return 0;
}

/* Makes room for all instructions at once: growing step by step would copy them again and again. */
static int reserve(PyObject *data, uint64_t count) {
    PyObject *done = PyObject_CallMethod(data, "reserve", "K", (unsigned long long)count);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

/* Takes one label as (number of the instruction, label); NULL, with no exception set, where the bytes are no such. */
static PyObject *take_label(Reader *reader, uint64_t instructions) {
    uint64_t head[2];
    if (reader->labels_left < sizeof head)
        return NULL;
    memcpy(head, reader->labels, sizeof head);
    if (head[0] >= instructions || head[1] > reader->labels_left - sizeof head)
        return NULL;
    const char *text = reader->labels + sizeof head;
    reader->labels = text + head[1];
    reader->labels_left -= sizeof head + head[1];
    return Py_BuildValue("Ks#", (unsigned long long)head[0], text, (Py_ssize_t)head[1]);
}

static PyObject *take_labels(Reader *reader, uint64_t instructions) {
    PyObject *labels = PyList_New(0);
    while (labels != NULL && reader->labels_left) {
        PyObject *label = take_label(reader, instructions);
        if (label == NULL || PyList_Append(labels, label) < 0)
            Py_CLEAR(labels);
        Py_XDECREF(label);
    }
    return labels;
}

/* Appends all instructions; returns their labels, or NULL as `take_label` does. */
static PyObject *append_all(PyObject *data, QkCircuit *circuit, const Py_buffer *packed) {
    Reader reader = {.qubits = qk_circuit_num_qubits(circuit), .clbits = qk_circuit_num_clbits(circuit)};
    if (open_columns(&reader, packed) < 0 || reserve(data, reader.kinds_left) < 0)
        return NULL;
    uint64_t instructions = reader.kinds_left;
    while (reader.kinds_left)
        if (append_next(circuit, &reader) < 0)
            return NULL;
    return take_labels(&reader, instructions);
}

static PyObject *unpack(PyObject *Py_UNUSED(module), PyObject *args) {
    PyObject *data, *labels = NULL;
    Py_buffer packed;
    if (!PyArg_ParseTuple(args, "Oy*", &data, &packed))
        return NULL;
    QkCircuit *circuit = qk_circuit_borrow_from_python(data);
    if (circuit != NULL)
        labels = append_all(data, circuit, &packed);
    PyBuffer_Release(&packed);
    if (labels == NULL && !PyErr_Occurred())
        PyErr_SetString(PyExc_ValueError, "these are not the packed instructions of a circuit with these bits");
    return labels;
}

static PyMethodDef METHODS[] = {
    {"pack", pack, METH_O, "Return the instructions as bytes, or None when they are not all of a kind that is held."},
    {"unpack", unpack, METH_VARARGS, "Append packed instructions; return (number, label) of those that are to have one."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef MODULE = {PyModuleDef_HEAD_INIT, .m_name = "_native", .m_methods = METHODS};

PyMODINIT_FUNC PyInit__native(void) {
    if (qk_import() < 0)
        return NULL;
    /* Qiskit promises the layout of its C API within a minor version only. */
    if (qk_api_version() >> 16 != QISKIT_VERSION_HEX >> 16) {
        PyErr_SetString(PyExc_ImportError, "built for another minor version of Qiskit");
        return NULL;
    }
    label_name = PyUnicode_InternFromString("label");
    if (label_name == NULL)
        return NULL;
    return PyModule_Create(&MODULE);
}
