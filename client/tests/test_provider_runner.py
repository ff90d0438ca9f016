"""Which entrypoints are a `Runner` to be run, and which are ordinary programs."""

from __future__ import annotations

import types
from typing import Any

import pytest
from qonduit.program import provider_runner, told_errors
from qonduit.program.provider_runner import unused_runner

RUNNER = "class Runner:\n    def run(self, arguments):\n        return arguments\n"
TO_BE_RUN = {
    "alone": RUNNER,
    "with what it needs": f"import json\nLIMIT = 3\ndef helper():\n    return 1\n{RUNNER}",
    "that names itself": "class Runner:\n    @staticmethod\n    def f(): return 1\n"
    "    def run(self, arguments): return Runner.f()\n",
    "with a base": "class Base:\n    def run(self, arguments): return 1\nclass Runner(Base):\n    pass\n",
    "that takes what it is not given": "class Runner:\n    def __init__(self, level=1): pass\n"
    "    def run(self, arguments, *more): return 1\n",
}
ORDINARY = {
    "no Runner": "print(1)\n",
    "one that runs itself": f"{RUNNER}Runner().run({{}})\n",
    "one that runs itself if run": f"{RUNNER}if __name__ == '__main__':\n    Runner()\n",
    "one that is used by a function": f"{RUNNER}def main():\n    return Runner()\n",
    "one that is imported": "from concurrent.futures import ThreadPoolExecutor as Runner  # class Runner\n",
    "one that is bound anew": f"{RUNNER}Runner = None\n",
    "one that runs nothing": "class Runner:\n    pass\n",
    "one whose run takes nothing": "class Runner:\n    def run(self): return 1\n",
    "one that is made of something": "class Runner:\n    def __init__(self, x): pass\n    def run(self, a): pass\n",
    "one within another": "class Outer:\n    class Runner:\n        def run(self, arguments): return 1\n",
    "two of them": f"{RUNNER}{RUNNER}",
}


def executed(text: str) -> types.ModuleType:
    module = types.ModuleType("__main__")
    exec(compile(text, "program.py", "exec"), module.__dict__)  # noqa: S102 - as the program's process does.
    return module


@pytest.fixture
def saved(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether the job's agent has a result."""
    answer = [False]
    monkeypatch.setattr(provider_runner, "result_is_saved", lambda: answer[0])
    return answer


@pytest.mark.usefixtures("saved")
@pytest.mark.parametrize("text", TO_BE_RUN.values(), ids=TO_BE_RUN)
def test_a_file_that_only_defines_a_runner_is_run_by_it(text: str) -> None:
    module = executed(text)
    assert unused_runner(module, text.encode()) is module.__dict__["Runner"]


@pytest.mark.usefixtures("saved")
@pytest.mark.parametrize("text", ORDINARY.values(), ids=ORDINARY)
def test_an_ordinary_program_is_left_alone(text: str) -> None:
    assert unused_runner(executed(text), text.encode()) is None


def test_a_program_that_saved_a_result_has_done_its_work(saved: list[bool]) -> None:
    saved[0] = True
    assert unused_runner(executed(RUNNER), RUNNER.encode()) is None


class _TheirError(Exception):
    """Of an installed client."""

    code = 7
    message = "theirs"


_TheirError.__name__ = "ServerlessError"


@pytest.mark.parametrize(
    ("error", "any_kind", "told"),
    [
        (ValueError("no"), False, {}),
        (ValueError("no"), True, {"code": "1", "message": "ValueError: no\n", "exception": "ValueError", "args": ""}),
        (_TheirError(), False, {"code": "7", "message": "theirs", "exception": "ServerlessError", "args": ""}),
        (
            told_errors.ServerlessError("E1", "half a pair \ud800", {"of": {1}}),
            False,
            {"code": "E1", "message": "half a pair ?", "exception": "ServerlessError", "args": '{"of": "{1}"}'},
        ),
    ],
)
def test_only_what_is_meant_for_users_is_told_them(error: Exception, any_kind: bool, told: dict[str, Any]) -> None:  # noqa: FBT001 - a case.
    assert told_errors.told_by(error, any_kind=any_kind) == told
