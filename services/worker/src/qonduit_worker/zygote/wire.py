"""What agent, zygote and sandbox say to each other: JSON on SOCK_SEQPACKET sockets, with descriptors beside it.

The zygote's socket carries requests one way: `fork` with an `Order`, or `zygote` with the socket of another zygote to
fork. The other way go `hello` (with a pidfd of the zygote), `ready` (with the modules that are imported) or `failed`.
Each sandbox has a control socket of its own: `forked` (with a pidfd of its first process), `started` (with the
listener, where the sandbox has its own network), `failed` and `exit` come out, `TERMINATE` and `KILL` go in.
"""

import json
import os
import socket
from dataclasses import asdict, dataclass
from typing import Any, Final

TERMINATE: Final = b"terminate"
KILL: Final = b"kill"
PORT_PLACEHOLDER: Final = "@QONDUIT_PORT@"
"""Where this stands in a value of the environment, the port of the sandbox's listener is put."""

_MAX_MESSAGE: Final = 64 * 1024
_MAX_DESCRIPTORS: Final = 16


@dataclass(frozen=True, slots=True)
class Start:
    """What a zygote process is told when it starts, as JSON on its command line. Holds nothing secret."""

    parent: int
    tier: str
    preload: tuple[str, ...]
    warm: str | None
    python_path: tuple[str, ...]
    hidden: tuple[str, ...]

    def dumps(self) -> str:
        """Write it down."""
        return json.dumps(asdict(self))

    @classmethod
    def loads(cls, text: str) -> "Start":
        """Read what `dumps` wrote."""
        fields: dict[str, Any] = json.loads(text)
        for name in ("preload", "python_path", "hidden"):
            fields[name] = tuple(fields[name])
        return cls(**fields)


@dataclass(frozen=True, slots=True)
class Order:
    """One sandbox to make. Paths are the host's; sizes are bytes."""

    sandbox_id: str
    job: str
    data: str
    run: str
    tmp: str
    tmp_bytes: int
    file_bytes: int | None
    pids: int
    uid: int | None
    port: int | None
    environment: dict[str, str]
    entry: str
    gives_way: bool
    """To the agent, where no control group weighs the cpu that programs get: many of them must not keep it waiting."""
    layer: str | None = None

    def to_memory(self) -> int:
        """Write it into an anonymous file, so that no limit of a socket applies; returns its descriptor."""
        descriptor = os.memfd_create("qonduit-order", os.MFD_CLOEXEC)
        with open(descriptor, "wb", closefd=False) as file:
            file.write(json.dumps(asdict(self)).encode())
        os.lseek(descriptor, 0, os.SEEK_SET)
        return descriptor

    @classmethod
    def from_memory(cls, descriptor: int) -> "Order":
        """Read what `to_memory` wrote, and close the descriptor."""
        with open(descriptor, "rb") as file:
            return cls(**json.loads(file.read()))


def send(channel: socket.socket, kind: str, *, descriptors: tuple[int, ...] = (), **fields: Any) -> None:
    """Send one message; texts are cut so that it always fits."""
    fields = {name: value[-_MAX_MESSAGE // 4 :] if isinstance(value, str) else value for name, value in fields.items()}
    socket.send_fds(channel, [json.dumps({"kind": kind, **fields}).encode()], list(descriptors))


def receive(channel: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """Take one message and its descriptors; None when the other side is gone."""
    try:
        payload, descriptors, _flags, _address = socket.recv_fds(
            channel, _MAX_MESSAGE, _MAX_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
        )
    except ConnectionError:
        return None
    if not payload:
        return None
    return json.loads(payload), list(descriptors)
