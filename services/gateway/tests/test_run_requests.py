"""What a run may ask for."""

from __future__ import annotations

import pytest
from qonduit_api.v1 import jobs_pb2, types_pb2
from qonduit_gateway.api.run_requests import RunLimits, shape_of
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
