"""One observed stack, with its work done, for all tests of the one file that needs it: it takes minutes."""

from __future__ import annotations

import os
import shutil
import time
from typing import TYPE_CHECKING

import pytest
from dashboards.checking import Span
from observed_stack import Observed, observed_stack
from observed_work import work

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def promtool() -> str:
    """The checker that comes with Prometheus; without it a skip on a laptop and a failure in CI."""
    found = shutil.which("promtool")
    if found is None or shutil.which("prometheus") is None:
        text = "Prometheus is missing: apt-get install prometheus"
        if os.environ.get("CI", "").lower() in {"1", "true"}:
            pytest.fail(text)
        pytest.skip(text)
    return found


@pytest.fixture(scope="module")
def observed(promtool: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    del promtool
    folder = tmp_path_factory.mktemp("observed")
    with observed_stack(folder) as running:
        work(running, folder)
        yield running


@pytest.fixture(scope="module")
def span(observed: Observed) -> Span:
    """From the first look of Prometheus to the end of the work."""
    return Span(observed.began_at, time.time())
