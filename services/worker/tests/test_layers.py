"""Layers that uv really builds, out of wheels made here; the only index is a server of the test."""

from __future__ import annotations

import asyncio
import inspect
import io
import tarfile
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

import pytest
from qonduit_worker import metrics
from qonduit_worker.dependencies import Builder, BuildRules, DependencyError, Layer, LayerStore, testing
from qonduit_worker.dependencies.testing import SlowIndex, write_wheel
from qonduit_worker.zygote import landlock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable
    from pathlib import Path

    from qonduit_worker.sandbox import CgroupTree

_PATIENCE_S = 100
_RULES = BuildRules()


@dataclass
class Listener:
    """Somebody who waits for a build."""

    lines: list[str] = field(default_factory=list)

    async def tell(self, line: str) -> None:
        self.lines.append(line)


class Make(Protocol):
    """Starts a store on the test's wheels, and on its index where there is one."""

    def __call__(
        self, rules: BuildRules = ..., *, index: SlowIndex | None = ..., capacity_bytes: int = ...
    ) -> Awaitable[LayerStore]: ...


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    folder = tmp_path / "wheels"
    folder.mkdir()
    write_wheel(folder, "tinypkg", "1.0", requires=["tinydep>=1"])
    write_wheel(folder, "tinydep", "2.0")
    return folder


@pytest.fixture
async def make(worker_folder: Path, cgroups: CgroupTree, wheels: Path) -> AsyncIterator[Make]:
    made: list[LayerStore] = []

    async def make_one(
        rules: BuildRules = _RULES, *, index: SlowIndex | None = None, capacity_bytes: int = 2**30
    ) -> LayerStore:
        rules = replace(rules, find_links=(str(wheels),), no_index=index is None)
        variables = {"UV_DEFAULT_INDEX": index.url} if index is not None else {}
        builder = Builder(rules, cgroups, worker_folder, variables)
        store = LayerStore(worker_folder / "environments", builder, capacity_bytes=capacity_bytes)
        await store.start()
        made.append(store)
        return store

    yield make_one
    for store in made:
        await store.stop()


@pytest.fixture
async def index() -> AsyncIterator[SlowIndex]:
    server = SlowIndex()
    await server.start()
    yield server
    await server.stop()


def built() -> float:
    (family,) = metrics.BUILDS.collect()
    return sum(s.value for s in family.samples if s.name.endswith("_total") and s.labels["outcome"] == "built")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "environments").iterdir())


def kept(cache: Path) -> list[Path]:
    """What a cache of uv holds of packages."""
    return list(cache.glob("archive-*/*"))


async def failure(store: LayerStore, *dependencies: str) -> str:
    with pytest.raises(DependencyError) as caught:
        await store.hold(dependencies, Listener().tell)
    return str(caught.value)


async def test_what_the_worker_has_needs_no_layer(make: Make, worker_folder: Path) -> None:
    store = await make()
    assert await store.hold((), Listener().tell) is None
    assert await store.hold(("numpy>=1", "Qiskit"), Listener().tell) is None
    assert names(worker_folder) == []


async def test_two_who_want_the_same_share_one_build_and_both_hear_of_it(make: Make, worker_folder: Path) -> None:
    store, first, second, before = await make(), Listener(), Listener(), built()
    layer, same = await asyncio.gather(
        store.hold(("tinypkg==1.0", "numpy"), first.tell), store.hold(("numpy", "TinyPkg == 1.0"), second.tell)
    )
    assert layer is not None
    assert layer == same
    assert built() == before + 1
    assert first.lines == second.lines
    assert first.lines[0] == "building the environment of this function: numpy, tinypkg==1.0"
    assert "2 packages: tinydep==2.0, tinypkg==1.0" in first.lines
    assert first.lines[-1].startswith("built in ")
    # What the worker has is not there again.
    assert layer.modules == {"tinypkg", "tinydep"}
    assert names(worker_folder) == [layer.digest]


async def test_a_layer_outlives_the_worker(make: Make) -> None:
    layer = await (await make()).hold(("tinypkg",), Listener().tell)
    later, before = Listener(), built()
    assert await (await make()).hold(("tinypkg",), later.tell) == layer
    assert (later.lines, built()) == ([], before)


async def test_another_version_of_what_the_worker_has_is_told(make: Make, wheels: Path) -> None:
    write_wheel(wheels, "cloudpickle", "99.0")
    listener = Listener()
    layer = await (await make()).hold(("cloudpickle>=99",), listener.tell)
    assert layer is not None
    assert layer.modules == {"cloudpickle"}
    assert any("instead of the worker's own cloudpickle" in line for line in listener.lines)


async def test_a_failing_resolution_is_told_in_the_resolvers_words(make: Make, worker_folder: Path) -> None:
    text = await failure(await make(), "no-such-thing>=3", "tinypkg")
    assert "could not be built from no-such-thing>=3, tinypkg" in text
    assert "no-such-thing was not found" in text
    assert names(worker_folder) == []


async def test_a_conflict_names_both_sides(make: Make, wheels: Path) -> None:
    write_wheel(wheels, "wants_old", "1.0", requires=["tinydep<2"])
    text = await failure(await make(), "tinydep>=2", "wants-old")
    assert all(each in text for each in ("wants-old", "tinydep<2", "tinydep>=2", "incompatible"))


async def test_what_programs_need_of_the_worker_cannot_be_broken(make: Make, wheels: Path) -> None:
    write_wheel(wheels, "numpy", "1.0")
    text = await failure(await make(), "numpy<2")
    assert "depends on numpy>=2" in text
    assert "the worker's own" in text


async def test_source_distributions_are_refused_unless_allowed_and_then_confined(
    make: Make, wheels: Path, worker_folder: Path
) -> None:
    if landlock.abi() < 1:
        pytest.skip("this kernel has no Landlock")
    secret = worker_folder / "secret"
    secret.write_text("of another job")
    outside = wheels / "written"
    backend = f"""
from pathlib import Path
from wheels import write_wheel

def build_wheel(folder, config_settings=None, metadata_directory=None):
    found = []
    for attempt in (Path({str(secret)!r}).read_text, Path({str(outside)!r}).touch):
        try:
            attempt()
            found.append("done")
        except OSError:
            found.append("refused")
    return write_wheel(Path(folder), "fromsource", "1.0", files={{"fromsource.py": repr(found)}}).name
"""
    system = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    with tarfile.open(wheels / "fromsource-1.0.tar.gz", "w:gz") as sdist:
        for name, text in {
            "pyproject.toml": system + '[project]\nname = "fromsource"\nversion = "1.0"\n',
            "PKG-INFO": "Metadata-Version: 2.1\nName: fromsource\nVersion: 1.0\n",
            "backend.py": backend,
            "wheels.py": inspect.getsource(testing),
        }.items():
            info = tarfile.TarInfo(f"fromsource-1.0/{name}")
            info.size = len(text.encode())
            sdist.addfile(info, io.BytesIO(text.encode()))
    assert "QONDUIT_WORKER_DEPENDENCY_SOURCES" in await failure(await make(), "fromsource")
    layer = await (await make(BuildRules(sources=True))).hold(("fromsource",), Listener().tell)
    assert layer is not None
    assert (layer.packages / "fromsource.py").read_text() == "['refused', 'refused']"
    assert not outside.exists()


async def test_a_build_ends_with_the_last_who_waits_and_leaves_nothing(
    make: Make, index: SlowIndex, worker_folder: Path
) -> None:
    store = await make(index=index)
    waiting = [asyncio.create_task(store.hold(("slow",), Listener().tell)) for _ in range(2)]
    await asyncio.wait_for(index.asked.wait(), _PATIENCE_S)
    waiting[0].cancel()
    # Another build, from its beginning to its end, while the first one hangs.
    assert await store.hold(("tinypkg",), Listener().tell) is not None
    assert not waiting[1].done()
    assert not index.left.is_set()
    waiting[1].cancel()
    await asyncio.wait_for(index.left.wait(), _PATIENCE_S)
    await store.stop()
    assert not [name for name in names(worker_folder) if name.endswith(".part")]


async def test_what_uv_is_set_to_use_is_used(
    worker_folder: Path, cgroups: CgroupTree, wheels: Path, tmp_path: Path, index: SlowIndex
) -> None:
    cache = tmp_path / "cache"
    variables = {"UV_CACHE_DIR": str(cache), "UV_FIND_LINKS": str(wheels), "UV_DEFAULT_INDEX": index.url}
    builder = Builder(BuildRules(), cgroups, worker_folder, variables)
    store = LayerStore(worker_folder / "environments", builder, capacity_bytes=2**30)
    await store.start()
    assert await store.hold(("tinypkg",), Listener().tell) is not None
    await store.stop()
    assert kept(cache)


async def test_a_build_has_a_time_limit(make: Make, index: SlowIndex) -> None:
    store = await make(BuildRules(time_limit_s=0.5), index=index)
    assert "longer than the 0.5 s" in await failure(store, "slow")


async def test_a_build_has_a_size_limit(make: Make, wheels: Path, worker_folder: Path) -> None:
    write_wheel(wheels, "large", "1.0", files={"large.py": "#" * 4 * 2**20})
    store = await make(BuildRules(layer_bytes=3 * 2**20))
    assert "larger than the 3 MiB" in await failure(store, "large")
    assert names(worker_folder) == []


async def test_what_a_killed_worker_left_is_removed(make: Make, worker_folder: Path) -> None:
    layer = await (await make()).hold(("tinypkg",), Listener().tell)
    assert layer is not None
    half = worker_folder / "environments" / ("0" * 64)
    (half / "site-packages").mkdir(parents=True)
    part = worker_folder / "environments" / "1234.part"
    part.mkdir()
    await make()
    assert names(worker_folder) == [layer.digest]


@pytest.mark.slow
async def test_room_is_made_by_removing_what_was_used_longest_ago_and_is_not_in_use(
    make: Make, wheels: Path, worker_folder: Path
) -> None:
    for name in "abcd":
        write_wheel(wheels, f"pkg{name}", "1.0", files={f"pkg{name}.py": f"{name}" + " " * 100_000})
    store = await make(capacity_bytes=250_000)
    layers: dict[str, Layer] = {}
    for name in "abc":
        layer = await store.hold((f"pkg{name}",), Listener().tell)
        assert layer is not None
        layers[name] = layer
        if name != "a":
            store.release(layer)
    await store.stop()
    assert names(worker_folder) == sorted(layers[name].digest for name in "ac")
    assert await store.hold(("pkga",), Listener().tell) == layers["a"]
    store.release(layers["a"])
    store.release(layers["a"])
    # Used most recently, it stays; the other one goes.
    assert await store.hold(("pkgd",), Listener().tell) is not None
    await store.stop()
    assert layers["a"].digest in names(worker_folder)
    assert layers["c"].digest not in names(worker_folder)
