"""Where a stack keeps what: one data folder, everything below it."""

from __future__ import annotations

import secrets
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qonduit.settings import default_data_dir, write_private

if TYPE_CHECKING:
    from pathlib import Path

LOGS_KEPT = 3
"""Logs of earlier starts that are kept beside the present one."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The files of one stack."""

    data_dir: Path

    @property
    def state_file(self) -> Path:
        """What runs, for `qonduit status` and `qonduit down`."""
        return self.data_dir / "stack.json"

    @property
    def lock_file(self) -> Path:
        """Held by the supervisor for as long as it lives."""
        return self.data_dir / "stack.lock"

    @property
    def profile(self) -> Path:
        """How clients reach this stack."""
        return self.data_dir / "profile.json"

    @property
    def internal_key(self) -> Path:
        """What services sign with among themselves; the first that needs it makes it."""
        return self.data_dir / "internal.key"

    @property
    def admin_token(self) -> Path:
        """The token of the user who started the stack."""
        return self.data_dir / "admin.token"

    def service_dir(self, name: str) -> Path:
        """Where a service keeps its own."""
        return self.data_dir / name

    def ready_file(self, name: str) -> Path:
        """What a service writes once it serves."""
        return self.data_dir / "run" / f"{name}.json"

    def log(self, name: str) -> Path:
        """The log of a service; "stack" is the supervisor's own, "rabbitmq" is written by RabbitMQ itself."""
        if name == "rabbitmq":
            return self.service_dir(name) / "log" / "rabbitmq.log"
        return self.data_dir / "logs" / f"{name}.log"

    def prepare(self) -> None:
        """Make the folders, for their owner alone; StackError where there can be none."""
        for folder in (self.data_dir, self.data_dir / "logs", self.data_dir / "run"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def token(self) -> str:
        """Return the administrator's token; it is made once."""
        if not self.admin_token.exists():
            write_private(self.admin_token, secrets.token_urlsafe(32) + "\n")
        return self.admin_token.read_text().strip()

    def rotate_log(self, name: str) -> Path:
        """Begin a new log and keep the last few."""
        log = self.log(name)
        for number in range(LOGS_KEPT, 0, -1):
            older = log.with_name(f"{log.name}.{number}")
            newer = log.with_name(f"{log.name}.{number - 1}") if number > 1 else log
            if newer.exists():
                newer.replace(older)
        log.touch(mode=0o600)
        return log


def layout_of(data_dir: Path | None) -> Layout:
    """Return the layout of the stack that every command means: what was said, $QONDUIT_HOME, or the default."""
    return Layout((data_dir or default_data_dir()).absolute())


def data_dir_option(layout: Layout) -> str:
    """Return what a command needs to mean this stack: nothing, or " --data-dir FOLDER"."""
    return "" if layout == layout_of(None) else f" --data-dir {shlex.quote(str(layout.data_dir))}"
