"""How a driver's end is told to its user: the reason and a text that says what to do."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from qonduit_service_kit.messages import Reason

if TYPE_CHECKING:
    from qonduit_worker.sandbox import Exit

MAX_TEXT_BYTES: Final = 16 * 1024
_MIB: Final = 1024**2


@dataclass(frozen=True, slots=True)
class Verdict:
    """The end of an attempt; reason NONE means that it went well."""

    reason: Reason = Reason.NONE
    text: str = ""
    exit_code: int | None = None
    signal: int | None = None
    for_author: bool = False
    """Whether the text names what the function consists of."""


@dataclass(frozen=True, slots=True)
class Ending:
    """All that is known when a driver has ended."""

    exit: Exit
    mem_limit_bytes: int
    time_limit_s: float
    stopped: Reason = Reason.NONE
    """Why the agent itself ended it; NONE when it ended by itself."""
    error_text: str = ""
    """The traceback that the program's runner sent."""
    result_error: str = ""
    """What save_result could not keep, when no later call succeeded."""


def judge(ending: Ending) -> Verdict:
    """Tell the ways to end apart; what the agent did itself comes first, for it explains the signal."""
    code, number = ending.exit.exit_code, ending.exit.signal
    reason, text = _reason_and_text(ending)
    return Verdict(reason, clip(text), code, number)


def _reason_and_text(ending: Ending) -> tuple[Reason, str]:
    if ending.stopped is not Reason.NONE:
        return ending.stopped, _why_stopped(ending)
    end = ending.exit
    if end.oom_killed and end.exit_code != 0:
        return Reason.OUT_OF_MEMORY, _why_out_of_memory(ending)
    if ending.result_error:
        return Reason.RESULT_NOT_SERIALIZABLE, f"save_result() could not keep the result: {ending.result_error}"
    if end.signal is not None:
        return Reason.KILLED, f"The program was killed by {_signal_name(end.signal)}."
    if end.exit_code == 0:
        return Reason.NONE, ""
    text = ending.error_text or f"The program exited with code {end.exit_code}; its log may say why."
    return Reason.PROGRAM_ERROR, text


def _why_stopped(ending: Ending) -> str:
    if ending.stopped is Reason.TIMEOUT:
        return (
            f"The program ran past its time limit of {_seconds(ending.time_limit_s)} and was ended. "
            "Ask for a longer limit, or split the work into several jobs."
        )
    return f"The job was ended: {ending.stopped.value.lower().replace('_', ' ')}."


def _why_out_of_memory(ending: Ending) -> str:
    return (
        f"The program used more memory than its limit of {_mib(ending.mem_limit_bytes)} (it held "
        f"{_mib(ending.exit.peak_mem_bytes)} at its peak) and was ended. Ask for more memory, or hold less at once: "
        "tasks with a memory target of their own run outside this limit."
    )


def clip(text: str) -> str:
    """Keep the end of a text that is too long for a message: a traceback's last lines say the most."""
    data = text.encode(errors="replace")
    if len(data) <= MAX_TEXT_BYTES:
        return data.decode()  # Names of files may hold what no message can.
    marker = "[...]\n"
    return marker + data[len(marker) - MAX_TEXT_BYTES :].decode(errors="ignore")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _mib(size: int) -> str:
    return f"{size / _MIB:,.0f} MiB"


def _seconds(seconds: float) -> str:
    return f"{seconds:g} s"
