from __future__ import annotations

from pathlib import Path

import pytest
from qonduit_worker.__main__ import SandboxTooWeakError, chosen_tier
from qonduit_worker.sandbox import SandboxReport
from qonduit_worker.settings import WorkerSettings

WHOLE = SandboxReport("A", "v2", ())
NO_CGROUPS = SandboxReport("A", "none", ("No memory control group: a watchdog measures instead.",))
CONTAINER = SandboxReport("B", "none", ("No namespaces: clone is refused.",))


def settings(**given: object) -> WorkerSettings:
    return WorkerSettings(data_dir=Path("nowhere"), **given)  # type: ignore[arg-type]


def test_a_whole_sandbox_is_taken() -> None:
    assert chosen_tier(WHOLE, settings()) == "A"


@pytest.mark.parametrize("report", [NO_CGROUPS, CONTAINER])
def test_a_worker_refuses_what_is_less_and_says_what_is_missing(report: SandboxReport) -> None:
    with pytest.raises(SandboxTooWeakError, match=report.missing[0][:20]):
        chosen_tier(report, settings())


@pytest.mark.parametrize("report", [NO_CGROUPS, CONTAINER])
def test_told_in_words_it_goes_on(report: SandboxReport) -> None:
    assert chosen_tier(report, settings(allow_weaker_sandbox=True)) == report.tier


def test_a_lower_minimum_accepts_what_belongs_to_it() -> None:
    assert chosen_tier(CONTAINER, settings(minimum_tier="B")) == "B"
