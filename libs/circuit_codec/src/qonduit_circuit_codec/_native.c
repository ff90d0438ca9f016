/* The instructions of a circuit as bytes and back, over Qiskit's C API.
 *
 * Packed: the number of instructions, of indices and of parameters (three uint64), then three columns: the parameters
 * (double), the indices of bits (uint32; before those of a barrier their number) and the kinds (uint8). Columns compress
 * better than records. Numbers are of this machine's byte order: the bytes live as long as a job.
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

static PyObject *label_name, *params_name;

/* Whether an instruction, as Python sees it, has no label and only floats; those are added to the column.
 * C's view of an instruction tells neither. Returns 1 for yes, 0 for no, -1 with an exception set. */
static int add_params(PyObject *data, size_t number, size_t params, Column *column) {
    PyObject *instruction = PySequence_GetItem(data, (Py_ssize_t)number);
    PyObject *label = NULL, *values = NULL;
    int result = -1;
    if (instruction == NULL || (label = PyObject_GetAttr(instruction, label_name)) == NULL)
        goto end;
    result = label == Py_None;
    if (!result || params == 0)
        goto end;
    result = -1;
    if ((values = PyObject_GetAttr(instruction, params_name)) == NULL)
        goto end;
    result = PyList_CheckExact(values) && (size_t)PyList_GET_SIZE(values) == params;
    for (size_t i = 0; result == 1 && i < params; i++) {
        PyObject *value = PyList_GET_ITEM(values, (Py_ssize_t)i);
        if (!PyFloat_CheckExact(value)) {
            result = 0;
        } else {
            double real = PyFloat_AS_DOUBLE(value);
            if (add(column, &real, sizeof real) < 0)
                result = -1;
        }
    }
end:
    Py_XDECREF(values);
    Py_XDECREF(label);
    Py_XDECREF(instruction);
    return result;
}

static PyObject *joined(const Column *kinds, const Column *indices, const Column *params) {
    uint64_t counts[3] = {kinds->used, indices->used / sizeof(uint32_t), params->used / sizeof(double)};
    PyObject *packed = PyBytes_FromStringAndSize(
        NULL, (Py_ssize_t)(sizeof counts + params->used + indices->used + kinds->used));
    if (packed == NULL)
        return NULL;
    char *to = PyBytes_AS_STRING(packed);
    memcpy(to, counts, sizeof counts);
    to += sizeof counts;
    const Column *columns[3] = {params, indices, kinds};
    for (int i = 0; i < 3; i++) {
        if (columns[i]->used)
            memcpy(to, columns[i]->bytes, columns[i]->used);
        to += columns[i]->used;
    }
    return packed;
}

static PyObject *pack(PyObject *Py_UNUSED(module), PyObject *data) {
    QkCircuit *circuit = qk_circuit_borrow_from_python(data);
    if (circuit == NULL)
        return NULL;
    Column kinds = {0}, indices = {0}, params = {0};
    PyObject *packed = NULL;
    size_t count = qk_circuit_num_instructions(circuit);
    for (size_t number = 0; number < count; number++) {
        QkCircuitInstructionView view;
        qk_circuit_view_instruction(circuit, number, &view);
        uint8_t kind = kind_of(circuit, number, &view);
        if (kind == UNKNOWN)
            goto not_held;
        if (add(&kinds, &kind, sizeof kind) < 0)
            goto end;
        if (kind == BARRIER && add(&indices, &view.num_qubits, sizeof view.num_qubits) < 0)
            goto end;
        if (add(&indices, view.qubits, view.num_qubits * sizeof(uint32_t)) < 0 ||
            add(&indices, view.clbits, view.num_clbits * sizeof(uint32_t)) < 0)
            goto end;
        /* The last use of the view: Python may do anything while it makes its object of the instruction. */
        int held = add_params(data, number, kind < MEASURE ? view.num_params : 0, &params);
        if (held < 0)
            goto end;
        if (held == 0)
            goto not_held;
    }
    packed = joined(&kinds, &indices, &params);
    goto end;
not_held:
    packed = Py_NewRef(Py_None);
end:
    PyMem_Free(kinds.bytes);
    PyMem_Free(indices.bytes);
    PyMem_Free(params.bytes);
    return packed;
}

/* Where reading the columns stands. */
typedef struct {
    const char *indices, *params, *kinds;
    uint64_t indices_left, params_left, kinds_left;
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
    uint64_t counts[3], limit = (uint64_t)packed->len;
    if (limit < sizeof counts)
        return -1;
    memcpy(counts, packed->buf, sizeof counts);
    if (counts[0] > limit || counts[1] > limit || counts[2] > limit ||
        sizeof counts + counts[2] * sizeof(double) + counts[1] * sizeof(uint32_t) + counts[0] != limit)
        return -1;
    reader->params = (const char *)packed->buf + sizeof counts;
    reader->indices = reader->params + counts[2] * sizeof(double);
    reader->kinds = reader->indices + counts[1] * sizeof(uint32_t);
    reader->kinds_left = counts[0];
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

static PyObject *unpack(PyObject *Py_UNUSED(module), PyObject *args) {
    PyObject *data;
    Py_buffer packed;
    if (!PyArg_ParseTuple(args, "Oy*", &data, &packed))
        return NULL;
    QkCircuit *circuit = qk_circuit_borrow_from_python(data);
    if (circuit == NULL) {
        PyBuffer_Release(&packed);
        return NULL;
    }
    Reader reader = {.qubits = qk_circuit_num_qubits(circuit), .clbits = qk_circuit_num_clbits(circuit)};
    int result = open_columns(&reader, &packed);
    if (result == 0 && reserve(data, reader.kinds_left) < 0) {
        PyBuffer_Release(&packed);
        return NULL;
    }
    while (result == 0 && reader.kinds_left)
        result = append_next(circuit, &reader);
    PyBuffer_Release(&packed);
    if (result < 0) {
        PyErr_SetString(PyExc_ValueError, "these are not the packed instructions of a circuit with these bits");
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyMethodDef METHODS[] = {
    {"pack", pack, METH_O, "Return the instructions as bytes, or None when they are not all of a kind that is held."},
    {"unpack", unpack, METH_VARARGS, "Append packed instructions."},
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
    params_name = PyUnicode_InternFromString("params");
    if (label_name == NULL || params_name == NULL)
        return NULL;
    return PyModule_Create(&MODULE);
}
