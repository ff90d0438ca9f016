from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from qonduit_service_kit.messages import INLINE_LIMIT_BYTES, Shape, SubmittedTask, TaskFunction, TaskInput
from qonduit_worker.tasks.requests import (
    MOST_TASKS_IN_A_CALL,
    BadTaskError,
    read_function,
    read_ids,
    read_tasks,
    refusals,
)

DIGEST = "a" * 64
LOCAL = "local-17"
FUNCTION = {
    "function_id": "f",
    "name": "transpile",
    "cpu_millis": 500,
    "mem_bytes": 2**30,
    "gpus": 1,
    "max_retries": 0,
    "timeout_s": 2,
    "code": b"code",
    "code_digest": "",
}


def test_a_function_is_read_as_it_was_defined() -> None:
    assert read_function(FUNCTION) == TaskFunction(
        "f", "transpile", Shape(500, 2**30, 1), max_retries=0, timeout_s=2.0, code=b"code"
    )
    stored = read_function({**FUNCTION, "code": None, "code_digest": DIGEST})
    assert (stored.code, stored.code_digest) == (None, DIGEST)
    assert len(read_function({**FUNCTION, "name": "n" * 1000}).name) == 200


@pytest.mark.parametrize(
    "fields",
    [
        {"function_id": ""},
        {"function_id": "f" * 65},
        {"function_id": 7},
        {"cpu_millis": float("inf")},
        {"cpu_millis": "9" * 300},
        {"cpu_millis": 0},
        {"cpu_millis": True},
        {"mem_bytes": 2**80},
        {"mem_bytes": None},
        {"gpus": -1},
        {"max_retries": -1},
        {"max_retries": 2**40},
        {"max_retries": 1.5},
        {"timeout_s": -1},
        {"timeout_s": float("nan")},
        {"timeout_s": float("inf")},
        {"timeout_s": "soon"},
        {"code": "text"},
        {"code": None},
        {"code_digest": DIGEST},
        {"code": None, "code_digest": "x" * 10_000},
        {"code": bytes(INLINE_LIMIT_BYTES + 1)},
    ],
    ids=lambda fields: str(fields)[:50],
)
def test_a_function_that_makes_no_sense_is_refused_with_a_text(fields: dict[str, Any]) -> None:
    with pytest.raises(BadTaskError, match=r"\w+ \w+"):
        read_function({**FUNCTION, **fields})


def test_tasks_are_read_as_they_were_submitted() -> None:
    inputs = [["other", None, ""], ["", b"v", ""], ["", None, DIGEST]]
    rows = [["t", b"call", "", inputs, []], ["u", None, DIGEST, [], [DIGEST]], ["v", None, LOCAL, [], [LOCAL]]]
    assert read_tasks({"function": "f", "tasks": rows}) == (
        SubmittedTask("t", "f", b"call", "", (TaskInput("other"), TaskInput("", b"v"), TaskInput("", None, DIGEST))),
        SubmittedTask("u", "f", None, DIGEST, (), (DIGEST,)),
        SubmittedTask("v", "f", None, LOCAL, (), (LOCAL,)),
    )


@pytest.mark.parametrize(
    "row",
    [
        None,
        [],
        ["t", b"call", ""],
        ["", b"call", "", [], []],
        ["t" * 65, b"call", "", [], []],
        ["t", "text", "", [], []],
        ["t", None, "", [], []],
        ["t", b"call", DIGEST, [], []],
        ["t", None, "x", [], []],
        ["t", bytes(INLINE_LIMIT_BYTES + 1), "", [], []],
        ["t", b"call", "", None, []],
        ["t", b"call", "", ["other"], []],
        ["t", b"call", "", [["other", None]], []],
        ["t", b"call", "", [[7, None, ""]], []],
        ["t", b"call", "", [["", None, ""]], []],
        ["t", b"call", "", [["other", None, ""]] * 10_001, []],
        ["t", b"call", "", [], None],
        ["t", b"call", "", [], ["x"]],
        ["t", b"call", "", [], [DIGEST] * 10_001],
    ],
    ids=lambda row: str(row)[:50],
)
def test_a_task_that_makes_no_sense_is_refused_with_a_text(row: object) -> None:
    with pytest.raises(BadTaskError, match=r"\w+ \w+"):
        read_tasks({"function": "f", "tasks": [row]})


@pytest.mark.parametrize("tasks", [None, 7, {"t": 1}, [["t", b"c", "", [], []]] * (MOST_TASKS_IN_A_CALL + 1)], ids=type)
def test_what_is_no_list_of_tasks_is_refused(tasks: object) -> None:
    with pytest.raises(BadTaskError, match="at most"):
        read_tasks({"function": "f", "tasks": tasks})
    with pytest.raises(BadTaskError, match="at most"):
        read_ids(tasks)


def test_what_is_refused_is_answered_as_far_as_it_can_be_told_apart() -> None:
    answers = refusals({"tasks": [["a", 1], ["b"], [], 7, [9]]}, BadTaskError("no sense"))
    assert [(one.task_id, one.outcome, one.text) for one in answers] == [
        ("a", "REFUSED", "no sense"),
        ("b", "REFUSED", "no sense"),
    ]
    assert refusals({"tasks": 7}, BadTaskError("no sense")) == []
    assert refusals({}, BadTaskError("no sense")) == []


JSONLIKE = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.binary(max_size=5)),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=20,
)


@given(st.fixed_dictionaries({"function": JSONLIKE, "tasks": JSONLIKE}))
def test_whatever_a_program_sends_is_read_or_refused(fields: dict[str, Any]) -> None:
    try:
        read_tasks(fields)
    except BadTaskError as error:
        refusals(fields, error)


@given(st.fixed_dictionaries(dict.fromkeys(FUNCTION, JSONLIKE)))
def test_whatever_function_a_program_sends_is_read_or_refused(fields: dict[str, Any]) -> None:
    with contextlib.suppress(BadTaskError):
        read_function(fields)
