from __future__ import annotations

from dataclasses import replace

import pytest
from qonduit_service_kit.messages import Reason
from qonduit_worker.outcome import MAX_TEXT_BYTES, Ending, clip, judge
from qonduit_worker.sandbox import Exit

DONE = Exit(0, None, oom_killed=False, cpu_seconds=1.0, peak_mem_bytes=300 * 1024**2, wall_seconds=2.0)
ENDING = Ending(DONE, mem_limit_bytes=256 * 1024**2, time_limit_s=90.0)


@pytest.mark.parametrize(
    ("ending", "reason", "words"),
    [
        (ENDING, Reason.NONE, ""),
        (replace(ENDING, exit=replace(DONE, exit_code=3)), Reason.PROGRAM_ERROR, "code 3"),
        (
            replace(ENDING, exit=replace(DONE, exit_code=1), error_text="Traceback: boom"),
            Reason.PROGRAM_ERROR,
            "Traceback: boom",
        ),
        (replace(ENDING, exit=replace(DONE, exit_code=None, signal=11)), Reason.KILLED, "SIGSEGV"),
        (
            replace(ENDING, exit=replace(DONE, exit_code=None, signal=9, oom_killed=True)),
            Reason.OUT_OF_MEMORY,
            "limit of 256 MiB (it held 300 MiB",
        ),
        (replace(ENDING, exit=replace(DONE, oom_killed=True)), Reason.NONE, ""),
        (replace(ENDING, result_error="result['x'] is a function"), Reason.RESULT_NOT_SERIALIZABLE, "result['x']"),
        (
            replace(ENDING, stopped=Reason.TIMEOUT, exit=replace(DONE, exit_code=None, signal=9)),
            Reason.TIMEOUT,
            "time limit of 90 s",
        ),
        (replace(ENDING, stopped=Reason.CANCELED), Reason.CANCELED, "canceled"),
    ],
)
def test_each_end_is_told_apart(ending: Ending, reason: Reason, words: str) -> None:
    verdict = judge(ending)
    assert verdict.reason is reason
    assert words in verdict.text
    assert (verdict.exit_code, verdict.signal) == (ending.exit.exit_code, ending.exit.signal)


def test_a_long_traceback_keeps_its_end() -> None:
    text = "é" * MAX_TEXT_BYTES + "ValueError: the end"
    verdict = judge(replace(ENDING, exit=replace(DONE, exit_code=1), error_text=text))
    assert len(verdict.text.encode()) <= MAX_TEXT_BYTES
    assert verdict.text.endswith("ValueError: the end")


def test_a_text_that_names_a_damaged_file_name_can_be_sent() -> None:
    assert clip("no file 'a\udcff.h5'") == "no file 'a?.h5'"
