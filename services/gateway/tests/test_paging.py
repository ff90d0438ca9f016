"""Pages of lists, and the tokens that lead from one to the next."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from qonduit_api.v1 import jobs_pb2
from qonduit_gateway.api import paging
from qonduit_service_kit.errors import ApiError


def token_of(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode()


def test_a_token_leads_back_to_its_key() -> None:
    assert paging.from_token(paging.to_token([1.5, "job"]), float, str) == (1.5, "job")
    assert paging.from_token(paging.to_token(7), int) == 7
    assert paging.from_token("", int) is None


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("x", (int,)),
        ("[1]", (float, str)),
        ("true", (int,)),
        ("1e400", (float,)),
        ("NaN", (float,)),
        (str(2**63), (int,)),
        (str(-(2**64)), (float,)),
        (json.dumps([1.0, "a\0b"]), (float, str)),
        (100_000 * "[", (int,)),
    ],
)
def test_a_token_that_is_none_of_ours_is_refused(text: str, shape: Any) -> None:
    with pytest.raises(ApiError) as caught:
        paging.from_token(token_of(text), *shape)
    assert caught.value.reason == "INVALID_PAGE_TOKEN"


def test_a_page_ends_where_an_answer_would_become_too_large() -> None:
    jobs = [jobs_pb2.Job(job_id=str(number), error_text=16_384 * "x") for number in range(1000)]
    page = paging.fitting(jobs)
    assert 100 <= len(page) < 1000
    assert jobs_pb2.ListJobsResponse(jobs=page).ByteSize() < 4 * 1024**2
    assert paging.fitting(jobs[:5]) == jobs[:5]
    assert paging.fitting([jobs_pb2.Job(error_text=5_000_000 * "x")])
