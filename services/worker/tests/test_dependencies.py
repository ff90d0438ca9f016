from __future__ import annotations

from importlib import metadata

from qonduit_worker.dependencies import explain, unmet


def test_what_is_there_is_no_problem() -> None:
    assert unmet(["numpy>=1", f"qiskit=={metadata.version('qiskit')}", "nothing; python_version < '3'"]) == []


def test_each_problem_is_named() -> None:
    problems = unmet(["numpy>=99", "no-such-package", "what is this?"])
    assert [("99" in problem, "no-such-package" in problem) for problem in problems] == [
        (True, False),
        (False, True),
        (False, False),
    ]
    assert metadata.version("numpy") in problems[0]
    assert "what is this?" in explain(problems)
