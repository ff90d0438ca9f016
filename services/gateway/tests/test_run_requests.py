"""What a run may ask for."""

from __future__ import annotations

import pytest
from qonduit_api.v1 import jobs_pb2, types_pb2
from qonduit_gateway.api.run_requests import RunLimits, qpu_budget_of, request_hash, shape_of, time_limit_of
from qonduit_gateway.database.user_rows import User
from qonduit_gateway.jobs.model import UserLimit
from qonduit_service_kit.errors import ApiError
from qonduit_service_kit.messages import Shape

LIMITS = RunLimits(Shape(1000, 2 * 1024**3), 60, 600)


def asking_for(mem_bytes: int) -> jobs_pb2.RunRequest:
    return jobs_pb2.RunRequest(resources=types_pb2.Resources(mem_bytes=mem_bytes))


def test_memory_that_no_program_could_start_in_is_refused() -> None:
    with pytest.raises(ApiError, match=r"is in bytes, must be at least 16777216, and is 512") as refused:
        shape_of(asking_for(512), LIMITS)
    assert "resources.mem_bytes" in refused.value.violations
    assert shape_of(asking_for(16 * 1024**2), LIMITS).mem_bytes == 16 * 1024**2
    assert shape_of(asking_for(0), LIMITS) == LIMITS.default_shape


def test_a_time_limit_is_within_the_users_and_the_servers() -> None:
    def limit_of(wanted: float, own: float | None) -> float:
        user = User("ada", False, 0.0, UserLimit(time_limit_seconds=own))  # noqa: FBT003 - No administrator.
        return time_limit_of(jobs_pb2.RunRequest(time_limit_seconds=wanted), LIMITS, user)

    assert (limit_of(0, None), limit_of(600, None)) == (60, 600)
    assert (limit_of(0, 30), limit_of(30, 30), limit_of(600, 9000)) == (30, 30, 600)
    for wanted, own, text in (
        (601, None, "at most 600, and is 601"),
        (601, 9000, "at most 600, and is 601"),
        (31, 30, "at most 30, the longest that ada may ask for, and is 31"),
        (-1, None, "above 0 and at most 600, and is -1"),
        (float("nan"), None, "and is nan"),
    ):
        with pytest.raises(ApiError, match=text) as refused:
            limit_of(wanted, own)
        assert (refused.value.reason, set(refused.value.violations)) == ("INVALID_TIME_LIMIT", {"time_limit_seconds"})


def test_a_budget_is_finite_and_none_where_nothing_is_asked() -> None:
    assert qpu_budget_of(jobs_pb2.RunRequest()) is None
    assert qpu_budget_of(jobs_pb2.RunRequest(qpu_budget_seconds=0.5)) == 0.5
    for wrong in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ApiError, match="qpu_budget_seconds must be above 0"):
            qpu_budget_of(jobs_pb2.RunRequest(qpu_budget_seconds=wrong))


def test_a_budget_makes_another_request_and_none_the_one_that_keys_of_before_stand_for() -> None:
    before = "d8bb98e932cddd8c"
    plain = jobs_pb2.RunRequest(function_title="f")
    assert request_hash(plain).startswith(before)
    assert request_hash(jobs_pb2.RunRequest(function_title="f", qpu_budget_seconds=1)) != request_hash(plain)
