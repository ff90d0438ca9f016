"""What it saves to keep noise models on disk: CPU seconds to build one and to load it, in one run.

    python bench/noise.py --rounds 3            (5 minutes; --devices ibm_torino --qubits 5,20 for a quick look)

For the first qubits of each device, in turn: Aer builds a model from the properties; a new process's share of loading
one, reading the table and making the errors of those qubits (the file's digest takes less than a millisecond); and
what each run of a circuit then costs before it begins, when Aer tells its simulator of the model. The least of the
rounds. That both models are the same is for the tests; here they are compared once more.
"""

from __future__ import annotations

import argparse
import os
import time
from typing import TYPE_CHECKING, Any, TypeVar

os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1"}  # Before any import.

from qonduit_qpu_broker.local.catalog import DeviceCatalog
from qonduit_qpu_broker.simulator.device import DeviceModel
from qonduit_qpu_broker.simulator.noise_table import NoiseTable

if TYPE_CHECKING:
    from collections.abc import Callable

    from qiskit_aer.noise import NoiseModel

CATALOG = DeviceCatalog()
Result = TypeVar("Result")


def device_model(name: str) -> DeviceModel:
    """Return a model that has kept nothing yet."""
    return DeviceModel(CATALOG.configuration(name), CATALOG.properties(name))


def measured(call: Callable[[], Result]) -> tuple[float, Result]:
    """Return the CPU seconds of a call, and what it returned."""
    begin = time.process_time()
    result = call()
    return time.process_time() - begin, result


def loaded(name: str, table: bytes, qubits: tuple[int, ...]) -> Callable[[], NoiseModel]:
    """Return what loads the noise of some qubits from a table."""
    model = device_model(name)

    def load() -> NoiseModel:
        model.take_noise(NoiseTable(table))
        return model.noise_for(qubits)

    return load


def told(model: NoiseModel) -> list[dict[str, Any]]:
    """Return what Aer simulates by, less the random ids."""
    errors: list[dict[str, Any]] = model.to_dict(serializable=True)["errors"]
    return [{key: value for key, value in error.items() if key != "id"} for error in errors]


def compare(name: str, table: bytes, width: int) -> tuple[float, float, float, int, int]:
    """Return CPU seconds to build, to load and to tell a model of some qubits; its circuits, and how many differ."""
    qubits = tuple(range(width))
    build_s, built = measured(lambda: device_model(name).noise_for(qubits))
    load_s, kept = measured(loaded(name, table, qubits))
    tell_s, same = measured(lambda: told(kept))
    if same != told(built):
        raise SystemExit(f"{name}, {width} qubits: what was loaded is not what was built")
    circuits = [str(one) for error in same for one in error.get("instructions", ())]
    return build_s, load_s, tell_s, len(circuits), len(set(circuits))


def main() -> None:
    """Print one row for each device and number of qubits."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--devices", default="ibm_torino,ibm_fez,ibm_brisbane")
    parser.add_argument("--qubits", default="5,20,60,1000", help="of more than a device has, all of them")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    print(
        "| device | qubits | circuits, different | build, s | load, s | | each run, s |\n|---|---|---|---|---|---|---|"
    )
    for name in arguments.devices.split(","):
        device_model(name).noise_for((0, 1))  # What is imported or compiled on first use.
        make_s, table = measured(device_model(name).noise_table)
        for asked in map(int, arguments.qubits.split(",")):
            width = min(asked, device_model(name).qubits)
            rounds = [compare(name, table, width) for _ in range(arguments.rounds)]
            build_s, load_s, tell_s = (min(one[number] for one in rounds) for number in range(3))
            circuits, different = rounds[0][3:]
            print(
                f"| {name} | {width} | {circuits:,}, {different:,} | {build_s:.2f} | {load_s:.3f} "
                f"| {build_s / load_s:.0f}x | {tell_s:.2f} |",
                flush=True,
            )
        print(f"| {name} | its table | {len(table) / 1000:.0f} KB | {make_s:.1f} | | | |", flush=True)


if __name__ == "__main__":
    main()
