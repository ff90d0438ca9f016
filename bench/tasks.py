"""Parallel tasks beside Ray, Dask, Celery, Dramatiq, taskiq and a bare process pool, in one run.

    make bench     (or: python bench/tasks.py --only noop,roundtrip --systems ours,pool --rounds 3)

Each round starts every system afresh for each group of measures, one system after another, and takes the same
measures of each with the same code (bench/peers/measures.py); ours is measured by a program that runs on a private
stack as a job. All have two executors of one thread. `tools/prepare.sh peers` installs the peers.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from peers import peer_host, qonduit_host, report
from peers.servers import MissingServerError, rabbitmq_version, redis_version

if TYPE_CHECKING:
    from collections.abc import Iterator

RESULTS: Final = Path(__file__).parent / "RESULTS.md"
SECTION: Final = "Parallel tasks: `make bench`"
SYSTEMS: Final = ("ours", "ours-2-workers", "ray", "dask", "celery", "dramatiq", "taskiq", "pool", "serial")
TOGETHER: Final[tuple[str, ...]] = ("first", "memory", "noop", "roundtrip", "arrays", "shared")
"""Measures of one start; each measure of circuits has a start of its own, so that its first batch is a cold one."""
APART: Final[tuple[str, ...]] = ("level1", "level3", "ownpm")
_ONLY: Final[dict[str, set[str]]] = {
    "ours-2-workers": {"noop", "roundtrip"},
    "dask": {*TOGETHER, "level1", "ownpm"},
    "celery": {*TOGETHER, "level1"},
    "dramatiq": {*TOGETHER, "level1"},
    "taskiq": {*TOGETHER},
    "serial": {*APART},
}
"""What a system measures if not all: circuits take minutes, and Ray and the pool show what pickling them costs."""
_ONCE: Final = {
    *((system, "level1") for system in ("dask", "celery", "dramatiq")),
    *((system, "level3") for system in ("ray", "pool")),
    *((system, "ownpm") for system in ("ray", "dask", "pool", "serial")),
}
"""What takes minutes and is far behind, so that the first round is enough."""

TEXT: Final = """\
{rounds} rounds; in each the systems one after another, each time another one first, and each started afresh for each
group of measures. {machine}.
{versions}.

A cell is `median (min-max)`, then for circuits the efficiency, then how the system stands beside ours: 0.50x is half
as good, whether that is half as many tasks a second or twice as long. Cells of circuits without a range are of the
first round only: they take minutes.

All have two executors of one thread each (`RAYON_NUM_THREADS=1`, `OMP_NUM_THREADS=1`, `QISKIT_PARALLEL=FALSE`) and run
the same tasks, measured by the same code in the program that sends them. Ours is a program on a private
stack, in sandboxes, with its tasks' memory enforced; `ours-2-workers` has one executor on each of two workers. Of the
others none isolates tasks. Celery returns results over RabbitMQ, Dramatiq and taskiq through Redis; all three pickle.

- no-op: 10,000 tasks that do nothing, called in a loop, until the last value is there. By `map`: in one call.
- round trip: from one call to its value, 200 times one after another.
- 1 MB each: 100 tasks, each with an array of its own.
- 50 MB shared: 100 tasks with the same array, by `put`, `ray.put`, Dask's `scatter(broadcast=True)`; sharing it is part
  of the time. Celery, Dramatiq, taskiq and the pool have no such thing: the array goes with each call (of 10).
- first result: from nothing to the first task's value. Peers: from the start of the program's process, starting cluster
  or workers; RabbitMQ and Redis run already. Ours: from `run()` of a job, on a stack that runs already.
- idle PSS: all processes 3 s after a first task, the waiting program, RabbitMQ and Redis included, what they
  share counted once. Ours holds preloaded interpreters with Qiskit; the peers have not imported it. "After it" is the
  same 3 s after the circuits of level 1: by then all hold Qiskit.

{small}

64 random circuits of 20 to 50 qubits, transpiled for the 133 qubits of `FakeTorino`, from the first call until the last
circuit is unpacked. Efficiency is (`serial` of the same round / 2) / time: serial is one process, one thread, no
system. Cold: the first batch after a start, no executor of a peer has imported Qiskit; warm: the next batch, at level 1
the median of the next three. The pass manager is made once a process, except for "own pass manager": there each task
makes one (level 1) from `service.backend(name)`, with `QiskitRuntimeLocalService` for the peers and the real
`QiskitRuntimeService` for ours; its efficiency is counted from the serial time without that.

{circuits}
"""


def main() -> None:
    """Measure, print the tables, and with --write put them into RESULTS.md."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by a signal"))  # Servers are stopped then, too.
    options = _options()
    systems = options.systems.split(",")
    names = options.only.split(",")
    rounds: dict[str, list[dict[str, float]]] = {system: [] for system in systems}
    for number in range(options.rounds):
        # Serial, the last of them, and ours, the first, come one after the other in each of five rounds: the efficiency
        # compares them, and a shared machine is not the same some minutes later.
        turn = (number + 1) % len(systems)
        for system in systems:
            rounds[system].append({})
        for group in _groups(names):
            for system in systems[turn:] + systems[:turn]:
                if number == 0 or (system, *group) not in _ONCE:
                    rounds[system][number] |= _measure(system, group, options.limit_s)
    tables = [report.table(columns, rounds) for columns in (report.SMALL, report.CIRCUITS)]
    text = "\n\n".join("\n".join(lines) for lines in tables if lines)
    print(text)
    if options.write:
        body = TEXT.format(
            rounds=options.rounds,
            machine=report.machine(),
            versions=_versions(),
            small="\n".join(tables[0]),
            circuits="\n".join(tables[1]),
        )
        RESULTS.write_text(report.replace_section(RESULTS.read_text(), SECTION, body))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(TOGETHER + APART), metavar="NAMES", help="measures (default: all)")
    parser.add_argument("--systems", default=",".join(SYSTEMS), metavar="NAMES", help="systems (default: all)")
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--limit-s", type=float, default=900, help="longest time for one group (default: %(default)s)")
    parser.add_argument("--write", action="store_true", help=f"write the tables to {RESULTS.name}")
    options = parser.parse_args()
    for given, known in ((options.only, TOGETHER + APART), (options.systems, SYSTEMS)):
        if unknown := set(given.split(",")) - set(known):
            parser.error(f"there is no {min(unknown)!r}; there are {', '.join(known)}")
    if options.write and set(options.only.split(",")) != {*TOGETHER, *APART}:
        parser.error("--write replaces both tables, so it needs all measures: leave --only out")
    return options


def _groups(names: list[str]) -> Iterator[list[str]]:
    """Yield the measures that share one start of a system."""
    if together := [name for name in TOGETHER if name in names]:
        yield together
    yield from ([name] for name in APART if name in names)


def _measure(system: str, names: list[str], limit_s: float) -> dict[str, float]:
    """Take the measures of one start; one that fails is told and gives no number."""
    names = [name for name in names if name in _ONLY.get(system, names)]
    if not names:
        return {}
    begun = time.monotonic()
    try:
        if system.startswith("ours"):
            layout = qonduit_host.TWO_WORKERS if system == "ours-2-workers" else qonduit_host.ONE_WORKER
            numbers = qonduit_host.run_qonduit(names, limit_s, layout)
        else:
            numbers = peer_host.run_peer(system, names, limit_s)
    except (peer_host.MeasuringError, MissingServerError) as error:
        print(f"{system}: {','.join(names)} failed: {error}", file=sys.stderr, flush=True)
        return {}
    told = " ".join(f"{name}={value:.4g}" for name, value in numbers.items())
    print(f"{system}: {told} ({time.monotonic() - begun:.0f} s)", file=sys.stderr, flush=True)
    return numbers


def _versions() -> str:
    found = {**peer_host.versions(), "RabbitMQ": rabbitmq_version(), "Redis": redis_version()}
    return ", ".join(f"{name} {version}" for name, version in found.items())


if __name__ == "__main__":
    main()
