"""Which functions are accepted, and what names a version."""

from __future__ import annotations

from dataclasses import replace

import pytest
from qonduit_gateway.functions.model import FunctionSpec, version_digest
from qonduit_gateway.functions.rules import broken_rules

DIGEST = "0" * 64
GOOD = FunctionSpec(
    "my-function_1.0", "folder/program.py", ("numpy>=2", "qiskit[all]~=2.0"), {"A_1": "x"}, "", "1.2rc1"
)


def test_a_good_function_breaks_no_rule() -> None:
    assert broken_rules(GOOD, DIGEST) == {}


@pytest.mark.parametrize(
    "entrypoint", ["../x.py", "a/../x.py", "/x.py", "x.sh", "./x.py", "a//x.py", "x\0.py", "a\\x.py"]
)
def test_an_entrypoint_is_a_plain_relative_program(entrypoint: str) -> None:
    assert "spec.entrypoint" in broken_rules(replace(GOOD, entrypoint=entrypoint), DIGEST)


@pytest.mark.parametrize("title", ["", "a b", "a/b", "x" * 256, "ä", "a\n"])
def test_titles(title: str) -> None:
    assert "spec.title" in broken_rules(replace(GOOD, title=title), DIGEST)


@pytest.mark.parametrize(
    "variables", [{"": "x"}, {"1A": "x"}, {"A-B": "x"}, {"A=B": "x"}, {"A": "\0"}, {"A": "x" * 16384}]
)
def test_variables(variables: dict[str, str]) -> None:
    assert "spec.env_vars" in broken_rules(replace(GOOD, environment=variables), DIGEST)


def test_a_bad_requirement_is_named() -> None:
    broken = broken_rules(replace(GOOD, dependencies=("numpy>=2", "not good!")), DIGEST)
    assert "not good!" in broken["spec.dependencies"]


def test_a_version_is_named_by_all_of_its_content() -> None:
    changed = [
        replace(GOOD, title="t"),
        replace(GOOD, entrypoint="e.py"),
        replace(GOOD, dependencies=("a",)),
        replace(GOOD, environment={"B": "x"}),
        replace(GOOD, description="d"),
        replace(GOOD, version_label="2"),
    ]
    digests = {version_digest(spec, DIGEST) for spec in (GOOD, *changed)} | {version_digest(GOOD, "1" * 64)}
    assert len(digests) == len(changed) + 2
    reordered = replace(GOOD, environment=dict(reversed([("A_1", "x"), ("B", "y")])))
    ordered = replace(GOOD, environment={"A_1": "x", "B": "y"})
    assert version_digest(reordered, DIGEST) == version_digest(ordered, DIGEST)
