"""Devices, targets and pass managers among the values of tasks, and what an executor keeps of them."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
import qiskit.transpiler
from qiskit import QuantumCircuit, generate_preset_pass_manager
from qiskit.circuit.random import random_circuit
from qiskit.transpiler import InstructionProperties, PassManager, Target
from qiskit.transpiler.passes import RemoveBarriers
from qiskit_ibm_runtime import IBMBackend, QiskitRuntimeService
from qiskit_ibm_runtime.fake_provider import FakeFez, FakeTorino
from qiskit_ibm_runtime.models import BackendProperties, QasmBackendConfiguration
from qonduit.program import devices, pass_managers, pickling
from qonduit.program.device_marks import mark_of
from qonduit.program.import_hooks import after_import
from qonduit.program.runtime_redirect import _kept_backend

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def roundtrip(value: Any) -> Any:
    return pickling.loads(pickling.dumps(value))


@pytest.fixture
def executor(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("QONDUIT_KIND", "executor")
    devices._kept.clear()
    yield
    devices._kept.clear()


@pytest.fixture
def generate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Qiskit's function as a program finds it, and as it was again afterwards."""
    for home in pass_managers._HOMES:
        if home in sys.modules:
            monkeypatch.setattr(sys.modules[home], pass_managers._NAME, generate_preset_pass_manager)
    pass_managers.keep_pass_managers()
    yield qiskit.transpiler.generate_preset_pass_manager
    pass_managers._kept.clear()


def worsen(target: Target) -> None:
    target.update_instruction_properties("sx", (0,), InstructionProperties(1e-7, 0.5))


def test_a_runtime_service_is_named_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    service = object.__new__(QiskitRuntimeService)
    service.secret = "of the driver"  # type: ignore[attr-defined]
    stands_in = object()
    data = pickling.dumps({"service": service})
    assert b"of the driver" not in data
    monkeypatch.setattr("qiskit_ibm_runtime.QiskitRuntimeService", lambda: stands_in)
    devices.runtime_service.cache_clear()
    assert pickling.loads(data)["service"] is stands_in
    devices.runtime_service.cache_clear()


def ibm_backend(name: str = "ibm_torino", **options: Any) -> IBMBackend:
    """Make a backend as the service does, of what a fake one knows."""
    fake = FakeTorino()
    assert fake.target
    configuration = QasmBackendConfiguration.from_dict({**fake._conf_dict, "backend_name": name})
    backend = IBMBackend(configuration, object(), object(), **options)
    backend._properties = BackendProperties.from_dict(fake._props_dict)
    return backend


class NamedService:
    """Gives out backends by name, as an executor's own service would."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def backend(self, name: str, **options: Any) -> IBMBackend:
        self.asked.append((name, options))
        return ibm_backend(name)


@pytest.mark.usefixtures("executor")
def test_a_backend_is_named_and_made_once_where_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    service = NamedService()
    monkeypatch.setattr(devices, "runtime_service", lambda: service)
    backend = ibm_backend()
    assert backend.target.num_qubits == 133
    data = pickling.dumps(((backend, 1), {}))
    assert len(data) < 500
    one = pickling.loads(data)[0][0]
    assert pickling.loads(data)[0][0] is one
    assert (one.name, one is not backend) == ("ibm_torino", True)
    roundtrip(ibm_backend(calibration_id="c1"))
    assert service.asked == [("ibm_torino", {}), ("ibm_torino", {"calibration_id": "c1"})]


@pytest.mark.usefixtures("executor")
def test_a_backend_whose_target_was_changed_brings_that_target(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "runtime_service", NamedService)
    backend = ibm_backend()
    worsen(backend.target)
    assert roundtrip(backend).target["sx"][0,].error == 0.5
    assert roundtrip(ibm_backend()).target["sx"][0,].error != 0.5


def test_a_target_arrives_with_all_it_says() -> None:
    target = FakeTorino().target
    data = pickling.dumps(target)
    assert mark_of(pickling.loads(data)) == mark_of(target)
    assert len(data) < 32 * 1024
    worsen(target)
    assert pickling.loads(pickling.dumps(target))["sx"][0,].error == 0.5


def test_a_driver_gets_targets_of_its_own() -> None:
    data = pickling.dumps(FakeTorino().target)
    assert pickling.loads(data) is not pickling.loads(data)


@pytest.mark.usefixtures("executor")
def test_an_executor_makes_a_target_once_while_it_stays_as_it_was() -> None:
    data = pickling.dumps(FakeTorino().target)
    one = pickling.loads(data)
    assert pickling.loads(data) is one
    worsen(one)
    two = pickling.loads(data)
    assert two is not one
    assert two["sx"][0,].error != 0.5


@pytest.mark.usefixtures("executor")
def test_a_fake_backend_travels_by_its_class_unless_it_was_changed() -> None:
    backend = FakeTorino()
    assert backend.target.num_qubits == 133
    data = pickling.dumps(backend)
    assert len(data) < 500
    one = pickling.loads(data)
    assert isinstance(one, FakeTorino)
    assert pickling.loads(data) is one
    worsen(backend.target)
    assert roundtrip(backend).target["sx"][0,].error == 0.5
    slow = FakeTorino()
    slow.set_options(shots=17)
    assert roundtrip(slow).options.shots == 17


def test_a_pass_manager_is_built_once_and_every_caller_has_its_own(generate: Any) -> None:
    backend = FakeTorino()
    circuit = random_circuit(5, 5, max_operands=2, seed=3)
    expected = generate_preset_pass_manager(1, backend=backend, seed_transpiler=7).run(circuit)
    one, two = (generate(1, backend=backend, seed_transpiler=7) for _ in range(2))
    assert one is not two
    assert one.run(circuit) == two.run(circuit) == expected
    one.optimization = None
    one.layout.append(RemoveBarriers())
    three = generate(optimization_level=1, backend=backend, seed_transpiler=7)
    assert three.optimization is not None
    assert three.run(circuit) == expected
    assert three.property_set is not two.property_set


def test_other_arguments_make_another_pass_manager(generate: Any) -> None:
    backend, circuit = FakeTorino(), QuantumCircuit(1)
    circuit.h(0)
    for layout in ([3], [5]):
        isa = generate(1, backend=backend, initial_layout=layout, seed_transpiler=1).run(circuit)
        assert isa.layout.initial_index_layout(filter_ancillas=True) == layout
    assert generate(1, backend=FakeFez()).run(circuit).num_qubits == 156
    assert generate(1, basis_gates=["u", "cx"]).run(circuit).count_ops() == {"u": 1}
    with pytest.raises(ValueError, match="optimization level"):
        generate(7, backend=backend)
    for _ in range(2):
        with pytest.warns(UserWarning, match="basis_gates"):
            generate(1, backend=backend, basis_gates=["rz", "sx", "cz"])


def test_a_device_that_changed_makes_another_pass_manager(generate: Any) -> None:
    backend, circuit = FakeTorino(), QuantumCircuit(1)
    circuit.h(0)
    used = generate(3, backend=backend, seed_transpiler=7).run(circuit).layout.initial_index_layout(True)[0]  # noqa: FBT003
    backend.target.update_instruction_properties("measure", (used,), InstructionProperties(1e-7, 1.0))
    backend.target.update_instruction_properties("sx", (used,), InstructionProperties(1e-7, 0.9))
    fresh = generate_preset_pass_manager(3, backend=backend, seed_transpiler=7).run(circuit)
    assert generate(3, backend=backend, seed_transpiler=7).run(circuit) == fresh
    pristine = FakeTorino()
    before = generate_preset_pass_manager(3, backend=pristine, seed_transpiler=7).run(circuit)
    assert generate(3, backend=pristine, seed_transpiler=7).run(circuit) == before


def test_a_pass_manager_travels_by_its_arguments_until_it_is_changed(generate: Any) -> None:
    backend = FakeTorino()
    circuit = random_circuit(5, 5, max_operands=2, seed=3)
    passes = generate(2, backend=backend, seed_transpiler=7)
    expected = passes.run(circuit)
    data = pickling.dumps(passes)
    assert len(data) < 1024
    assert pickling.loads(data).run(circuit) == expected
    passes.pre_init = PassManager([RemoveBarriers()])
    barred = QuantumCircuit(1)
    barred.barrier()
    assert "barrier" not in roundtrip(passes).run(barred).count_ops()


def test_a_pass_manager_that_qiskit_made_without_us_travels_whole() -> None:
    passes = generate_preset_pass_manager(1, backend=FakeTorino(), seed_transpiler=7)
    circuit = random_circuit(5, 5, max_operands=2, seed=3)
    assert roundtrip(passes).run(circuit) == passes.run(circuit)


@pytest.mark.usefixtures("executor")
def test_a_backend_that_a_task_asks_for_again_is_the_same_until_it_is_changed() -> None:
    class Service:
        asked = 0

        def original(self, name: str, instance: str | None = None) -> Any:
            del name, instance
            Service.asked += 1
            return FakeTorino()

        backend = _kept_backend(original)

    one = Service().backend("ibm_torino")
    assert Service().backend(name="ibm_torino") is one
    assert Service().backend("ibm_torino", instance="other") is not one
    worsen(one.target)
    assert Service().backend("ibm_torino") is not one
    assert Service.asked == 3


def test_a_module_is_acted_on_when_it_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "comes_late.py").write_text("value = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    seen: list[int] = []

    def act() -> None:
        seen.append(sys.modules["comes_late"].value)

    finders = list(sys.meta_path)
    after_import("comes_late", act)
    after_import("comes_late", act)
    module = __import__("comes_late")
    assert isinstance(module, ModuleType)
    assert seen == [1]
    assert sys.meta_path == finders
    after_import("comes_late", act)
    assert seen == [1, 1]
    del sys.modules["comes_late"]
