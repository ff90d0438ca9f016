"""Frames between the broker and the simulator's process: a JSON header, then raw bytes."""

from __future__ import annotations

import json
import struct
from dataclasses import asdict, dataclass
from typing import BinaryIO

PREFIX = struct.Struct(">IQ")
"""Length of the header, length of the body."""
MAX_RESULT_BYTES = 256 * 1024**2
MAX_HEADER_BYTES = 1024**2
NOISE_FORM = 1
"""Of the tables in which noise is kept; raised with each change to `noise_table`, or to the target made in `device`."""


@dataclass(frozen=True, slots=True)
class SimulationRequest:
    """What to simulate; the body is the program's POST, as it came."""

    program: str
    backend: str
    noisy: bool
    noise_table: bool = False
    """Set when this is no job: the body is the device's noise, to be loaded from now on."""


@dataclass(frozen=True, slots=True)
class SimulationReply:
    """How it ended; the body is the result when `ok`, else a text for the program's author."""

    ok: bool
    reason: str = ""
    """One sentence, when not ok."""
    code: int = 0
    """The runtime API's reason code, when not ok."""
    charged_s: float = 0.0
    """Modelled seconds on the device."""
    ready: bool = False
    """Sent once at start, when the first job would not wait for imports."""


def pack(header: SimulationRequest | SimulationReply, body: bytes = b"") -> bytes:
    """Return one frame."""
    text = json.dumps(asdict(header)).encode()
    return PREFIX.pack(len(text), len(body)) + text + body


def read_frame(stream: BinaryIO) -> tuple[bytes, bytes] | None:
    """Return the next frame's header and body, or None at the end of the stream."""
    prefix = stream.read(PREFIX.size)
    if len(prefix) < PREFIX.size:
        return None
    header_length, body_length = PREFIX.unpack(prefix)
    return stream.read(header_length), stream.read(body_length)
