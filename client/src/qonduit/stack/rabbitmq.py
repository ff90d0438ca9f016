"""A private RabbitMQ node: own data, own ports, own cookie, only on loopback.

The node needs no epmd (its distribution port is fixed) and ends itself, in order, when the process that
started it is gone: it reads a pipe of which that process holds the other end.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

LOOPBACK = "127.0.0.1"
MEMORY_LIMIT_BYTES = 512 * 1024**2
"""Above it, the node blocks publishers until consumers have caught up."""
DISK_FREE_BYTES = 256 * 1024**2
"""Below it, the node blocks publishers."""
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 15.0
CONTROL_TIMEOUT_S = 30.0
_POLL_S = 0.02

# Reads "FILE<tab>ERLANG" lines from the pipe, writes "ok" or "error" to FILE, and ends the node when the pipe does.
_CONTROL = """spawn(fun() ->
  Do = fun(Text) ->
    {ok, Tokens, _} = erl_scan:string(Text),
    {ok, Forms} = erl_parse:parse_exprs(Tokens),
    erl_eval:exprs(Forms, [])
  end,
  Loop = fun Next() ->
    case io:get_line("") of
      Line when is_list(Line) ->
        [File, Text] = string:split(string:trim(Line), "\t"),
        Answer = try Do(Text), "ok" catch _:Error -> io_lib:format("error: ~0p", [Error]) end,
        file:write_file(File ++ ".tmp", Answer), file:rename(File ++ ".tmp", File),
        Next();
      _ -> init:stop()
    end
  end,
  Loop()
end)."""


class RabbitNodeError(Exception):
    """The private RabbitMQ node did not do what it was asked to."""


class RabbitMQMissingError(RabbitNodeError):
    """RabbitMQ is not installed."""

    def __init__(self) -> None:
        super().__init__(
            "rabbitmq-server was not found. Install it (Debian, Ubuntu: `sudo apt-get install rabbitmq-server`; "
            "macOS: `brew install rabbitmq`), or use a running broker with `qonduit up --amqp-url URL`."
        )


class RabbitMQStartError(RabbitNodeError):
    """The node ended, or was not ready in time; the text holds the end of its log."""


def _candidates() -> Iterator[Path]:
    # Packages put a wrapper on PATH that changes to the user `rabbitmq` and its fixed folders; the script
    # below lib is the real one.
    for root in ("/usr/lib/rabbitmq", "/usr/local/lib/rabbitmq"):
        yield Path(root) / "bin" / "rabbitmq-server"
        yield from sorted(Path(root).glob("lib/rabbitmq_server-*/sbin/rabbitmq-server"), reverse=True)
    for root in ("/opt", "/opt/rabbitmq", "/usr/local/opt/rabbitmq", "/opt/homebrew/opt/rabbitmq"):
        yield Path(root) / "sbin" / "rabbitmq-server"
        yield from sorted(Path(root).glob("rabbitmq_server-*/sbin/rabbitmq-server"), reverse=True)
    on_path = shutil.which("rabbitmq-server")
    if on_path:
        yield Path(on_path).resolve()


def find_rabbitmq() -> Path:
    """Return the real start script of RabbitMQ; RabbitMQMissingError if there is none."""
    for path in _candidates():
        if (path.parent / "rabbitmq-env").exists() and os.access(path, os.X_OK):
            return path
    raise RabbitMQMissingError


def free_port() -> int:
    """Return a TCP port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass(frozen=True, slots=True)
class _Identity:
    """What stays the same over restarts on the same data."""

    user: str
    password: str
    amqp_port: int
    dist_port: int


class RabbitNode:
    """One node below `data_dir`; start and stop are blocking, and safe to call twice."""

    def __init__(self, data_dir: Path, *, amqp_port: int | None = None) -> None:
        self._dir = Path(data_dir).absolute()
        self._wanted_port = amqp_port
        self._identity: _Identity | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """AMQP URL with user and password: a secret."""
        me = self._known()
        return f"amqp://{me.user}:{me.password}@{LOOPBACK}:{me.amqp_port}/"

    @property
    def port(self) -> int:
        """The AMQP port."""
        return self._known().amqp_port

    @property
    def pid(self) -> int | None:
        """Process id of the Erlang machine; None when it isn't running."""
        return self._process.pid if self._process and self._process.poll() is None else None

    @property
    def log_file(self) -> Path:
        """The node's own log."""
        return self._dir / "log" / "rabbitmq.log"

    def start(self) -> None:
        """Start the node and return once it accepts AMQP clients.

        Raises:
            RabbitMQMissingError: RabbitMQ is not installed.
            RabbitMQStartError: It ended, or took longer than a minute.
        """
        if self.pid is not None:
            return
        script = find_rabbitmq()
        self._identity = self._load_identity()
        self._write_config(self._identity)
        with (self._dir / "log" / "console.log").open("ab") as console:
            self._process = subprocess.Popen(
                [str(script), "-noshell", "-kernel", "inet_dist_use_interface", "{127,0,0,1}",
                 "-shutdown_time", "10000", "-eval", _CONTROL],
                env=self._environment(self._identity), cwd=self._dir, start_new_session=True,
                stdin=subprocess.PIPE, stdout=console, stderr=console,
            )  # fmt: skip
        self._wait_ready(self._identity.amqp_port)

    def stop(self) -> None:
        """Stop in order, so that everything is on disk; kills after 15 s."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End at once, as a crash would."""
        self._end(signal.SIGKILL)

    def add_vhost(self, name: str) -> None:
        """Make an empty vhost that this node's user may use."""
        user = self._known().user
        self.control(
            f'rabbit_vhost:add(<<"{name}">>, <<"{user}">>), rabbit_auth_backend_internal:set_permissions('
            f'<<"{user}">>, <<"{name}">>, <<".*">>, <<".*">>, <<".*">>, <<"{user}">>).'
        )

    def remove_vhost(self, name: str) -> None:
        """Remove a vhost with all that is in it; its clients are disconnected."""
        self.control(f'rabbit_vhost:delete(<<"{name}">>, <<"{self._known().user}">>).')

    def control(self, expression: str) -> None:
        """Have the node evaluate one line of Erlang: what rabbitmqctl does, without starting a second Erlang.

        Raises:
            RabbitNodeError: The node doesn't run, or the expression failed.
        """
        process = self._process
        if process is None or process.poll() is not None or process.stdin is None:
            raise RabbitNodeError("the RabbitMQ node is not running")
        answer = self._dir / f"answer-{secrets.token_hex(6)}"
        process.stdin.write(f"{answer}\t{expression}\n".encode())
        process.stdin.flush()
        deadline = time.monotonic() + CONTROL_TIMEOUT_S
        while not answer.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RabbitNodeError(f"the RabbitMQ node did not answer: {expression}")
            time.sleep(_POLL_S)
        text = answer.read_text()
        answer.unlink()
        if text != "ok":
            raise RabbitNodeError(f"the RabbitMQ node says {text} to: {expression}")

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(how)
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if process.stdin:
            process.stdin.close()

    def _known(self) -> _Identity:
        if self._identity is None:
            self._identity = self._load_identity()
        return self._identity

    def _load_identity(self) -> _Identity:
        """Read the identity, or make one; a port that was asked for wins."""
        for folder in (self._dir, self._dir / "log"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._dir / "node.json"
        if self._identity is not None:
            return self._identity
        if path.exists():
            known = _Identity(**json.loads(path.read_text()))
        else:
            known = _Identity("qonduit", secrets.token_urlsafe(24), free_port(), free_port())
        if self._wanted_port is not None and known.amqp_port != self._wanted_port:
            known = _Identity(known.user, known.password, self._wanted_port, known.dist_port)
        _write_secret(path, json.dumps(asdict(known)))
        return known

    def _write_config(self, me: _Identity) -> None:
        # Erlang terms: the newer format is translated at each start, which costs more than a second.
        _write_secret(
            self._dir / "rabbitmq.config",
            f"""[{{rabbit, [
  {{tcp_listeners, [{{"{LOOPBACK}", {me.amqp_port}}}]}},
  {{default_user, <<"{me.user}">>}}, {{default_pass, <<"{me.password}">>}}, {{loopback_users, []}},
  {{vm_memory_high_watermark, {{absolute, {MEMORY_LIMIT_BYTES}}}}}, {{disk_free_limit, {DISK_FREE_BYTES}}},
  {{collect_statistics_interval, 60000}}
]}}].
""",
        )
        (self._dir / "enabled_plugins").write_text("[].\n")

    def _environment(self, me: _Identity) -> dict[str, str]:
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "LANG": "C.UTF-8",
            "HOME": str(self._dir),
            "RABBITMQ_NODENAME": "qonduit@localhost",
            "RABBITMQ_MNESIA_BASE": str(self._dir / "data"),
            "RABBITMQ_LOG_BASE": str(self._dir / "log"),
            "RABBITMQ_LOGS": str(self.log_file),
            "RABBITMQ_CONFIG_FILE": str(self._dir / "rabbitmq.config"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self._dir / "none.config"),
            "RABBITMQ_CONF_ENV_FILE": os.devnull,
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self._dir / "enabled_plugins"),
            # With "input allowed" the script execs the Erlang machine (our pid is the node's) and leaves the pipe to it.
            "RABBITMQ_ALLOW_INPUT": "1",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                "+S 2:2 +A 4 +sbwt none +sbwtdcpu none +sbwtdio none "
                f"-sname qonduit@localhost -start_epmd false -erl_epmd_port {me.dist_port}"
            ),
        }

    def _wait_ready(self, port: int) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not _speaks_amqp(port):
            ended = self._process is None or self._process.poll() is not None
            if ended or time.monotonic() > deadline:
                self.kill()
                what = "ended while starting" if ended else f"was not ready within {START_TIMEOUT_S:.0f} s"
                raise RabbitMQStartError(f"RabbitMQ {what} (port {port}, log {self.log_file}).\n{self._log_end()}")
            time.sleep(_POLL_S)

    def _log_end(self) -> str:
        files = (self._dir / "log" / "console.log", self.log_file)
        return "\n".join(path.read_text(errors="replace")[-1500:] for path in files if path.exists())


def _speaks_amqp(port: int) -> bool:
    """Whether something answers the AMQP greeting with Connection.Start."""
    try:
        with socket.create_connection((LOOPBACK, port), timeout=2) as probe:
            probe.sendall(b"AMQP\x00\x00\x09\x01")
            return probe.recv(1) == b"\x01"
    except OSError:
        return False


def _write_secret(path: Path, text: str) -> None:
    """Write so that nobody else can read it, and no reader sees half of it."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    temporary.replace(path)
