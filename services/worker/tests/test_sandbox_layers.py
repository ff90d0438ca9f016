"""What a program finds of a layer of packages, in the best sandbox that this machine gives."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from qonduit_worker.dependencies import Layer
from qonduit_worker.sandbox import CgroupTree, SandboxConfig
from qonduit_worker.zygotes import ZygotePool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from qonduit_worker.sandbox import SandboxSpec, Zygote
    from qonduit_worker.sandbox.testing import Sandboxes


@pytest.fixture
def packages(worker_folder: Path) -> Path:
    # Where the worker keeps them: below its own folder, which programs see nothing of.
    folder = worker_folder / "state" / "environments" / "digest" / "site-packages"
    folder.mkdir(parents=True)
    (folder / "brought.py").write_text("where = __file__\n")
    (folder / "named.pth").write_text("inner\n")
    (folder / "inner").mkdir()
    (folder / "inner" / "by_pth.py").write_text("")
    (folder / "numpy.py").write_text("version = 'of the layer'\n")
    (folder / "dataclasses.py").write_text("raise RuntimeError('the backport')\n")
    (folder / "bin").mkdir()
    return folder


async def run(sandboxes: Sandboxes, code: str, packages: Path) -> str:
    spec = replace(sandboxes.spec(code), layer=packages)
    sandbox = await sandboxes.zygote.fork(spec)
    return (await sandbox.output.read()).decode()


async def test_its_packages_come_after_the_standard_library_and_before_all_others(
    sandboxes: Sandboxes, packages: Path
) -> None:
    code = """
    import dataclasses, sys
    import brought, by_pth, numpy
    print(numpy.version, brought.where, dataclasses.__file__ != "/environment/dataclasses.py")
    others = [path for path in sys.path if path.endswith("site-packages")]
    print(sys.path.index("/environment") < sys.path.index("/environment/inner") < sys.path.index(others[0]))
    """
    assert await run(sandboxes, code, packages) == "of the layer /environment/brought.py True\nTrue\n"


async def test_it_is_read_only_and_only_there_for_who_has_it(sandboxes: Sandboxes, packages: Path) -> None:
    code = """
    from pathlib import Path
    try:
        Path("/environment/new").write_text("")
    except OSError as error:
        print(type(error).__name__)
    """
    assert (await run(sandboxes, code, packages)).strip() in {"OSError", "PermissionError"}
    output, _ = await sandboxes.run("from pathlib import Path; print(list(Path('/environment').iterdir()))")
    assert output == "[]\n"
    assert not (packages / "new").exists()


async def test_what_its_pth_files_do_is_the_programs_doing(sandboxes: Sandboxes, packages: Path) -> None:
    (packages / "exits.pth").write_text("import sys; sys.exit(7)\n")
    spec = replace(sandboxes.spec("print('never')"), layer=packages)
    sandbox = await sandboxes.zygote.fork(spec)
    assert await sandbox.output.read() == b""
    assert (await sandbox.wait()).exit_code == 7


@pytest.fixture
async def pool(worker_folder: Path, sandbox_config: SandboxConfig) -> AsyncIterator[ZygotePool]:
    cgroups = CgroupTree(worker_folder / "state")
    cgroups.prepare()
    zygotes = ZygotePool(sandbox_config, cgroups, preload=("numpy",), warm=False)
    await zygotes.start()
    yield zygotes
    await zygotes.stop()


async def test_another_version_of_what_is_imported_already_is_what_the_program_gets(
    pool: ZygotePool, packages: Path, worker_folder: Path, make_sandboxes: Callable[[Zygote], Sandboxes]
) -> None:
    boxes = make_sandboxes(pool._narrow.zygote)

    async def answer(modules: set[str]) -> str:
        layer = Layer("digest", packages, frozenset(modules), 0)
        spec: SandboxSpec = replace(
            boxes.spec("import sys; print('numpy' in sys.modules); import numpy; print(numpy.__file__)"), layer=packages
        )
        forked = await pool.fork(spec, threads=1, kind="test", layer=layer)
        return (await forked.sandboxed.output.read()).decode()

    inside = str(pool.inside(worker_folder, Layer("digest", packages, frozenset(), 0)).layer)
    assert (await answer({"brought"})).startswith("True\n")
    assert inside not in await answer({"brought"})
    assert await answer({"brought", "numpy"}) == f"False\n{inside}/numpy.py\n"
