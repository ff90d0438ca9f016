"""Make the Python code of the .proto files, or check that what is checked in is what they say.

python tools/generate_protos.py [--check]
"""

from __future__ import annotations

import argparse
import filecmp
import sys
import tempfile
from importlib import resources
from pathlib import Path

from grpc_tools import protoc

PROTO_ROOT = Path(__file__).resolve().parent.parent / "proto"


def generate(target: Path) -> list[Path]:
    """Compile every .proto file below PROTO_ROOT into `target`; return the files made, relative to it."""
    sources = sorted(PROTO_ROOT.rglob("*.proto"))
    well_known = resources.files("grpc_tools") / "_proto"
    arguments = [
        "protoc",
        f"--proto_path={PROTO_ROOT}",
        f"--proto_path={well_known}",
        *(f"--{plugin}_out={target}" for plugin in ("python", "grpc_python", "mypy", "mypy_grpc")),
        *map(str, sources),
    ]
    if protoc.main(arguments) != 0:
        raise SystemExit("protoc failed: see its message above")
    return sorted(path.relative_to(target) for pattern in ("*_pb2*.py", "*_pb2*.pyi") for path in target.rglob(pattern))


def stale_files() -> list[Path]:
    """Return the checked-in files that differ from what the .proto files give now."""
    with tempfile.TemporaryDirectory() as folder:
        fresh = generate(Path(folder))
        differing = [
            path
            for path in fresh
            if not (PROTO_ROOT / path).exists()
            or not filecmp.cmp(PROTO_ROOT / path, Path(folder) / path, shallow=False)
        ]
        checked_in = {
            path.relative_to(PROTO_ROOT) for path in PROTO_ROOT.rglob("*_pb2*.py*") if "__pycache__" not in path.parts
        }
        return sorted({*differing, *(checked_in - set(fresh))})


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if generated code is stale")
    if not parser.parse_args().check:
        generate(PROTO_ROOT)
        return 0
    stale = stale_files()
    for path in stale:
        sys.stderr.write(f"stale: proto/{path}; run 'make protos'\n")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
