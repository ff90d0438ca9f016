"""A private RabbitMQ node: own data, own ports, own cookie, only on loopback.

The node needs no epmd (its distribution port is fixed) and ends itself, in order, when the process that
started it is gone: it reads a pipe of which that process holds the other end.
"""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import time
from pathlib import Path

from qonduit.stack.rabbitmq_data import (
    LOOPBACK,
    METRICS_PLUGIN,
    Identity,
    RabbitMQStartError,
    free_port,
    is_free,
    load_identity,
    locked,
    write_config,
)
from qonduit.stack.rabbitmq_home import RabbitMQMissingError, RabbitNodeError, find_rabbitmq, lean_home

__all__ = ["RabbitMQMissingError", "RabbitMQStartError", "RabbitNode", "RabbitNodeError", "free_port"]

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 15.0
CONTROL_TIMEOUT_S = 60.0
_POLL_S = 0.02

# Reads "FILE<tab>ERLANG" lines from the pipe, writes "ok" or what went wrong to FILE, and ends the node when
# the pipe does.
_CONTROL = """spawn(fun() ->
  Do = fun(Text) ->
    {ok, Tokens, _} = erl_scan:string(Text),
    {ok, Forms} = erl_parse:parse_exprs(Tokens),
    erl_eval:exprs(Forms, [])
  end,
  Loop = fun Next() ->
    case io:get_line("") of
      Line when is_list(Line) ->
        [File, Text] = string:split(string:trim(Line), "\\t"),
        Answer = try Do(Text), "ok" catch _:Error -> io_lib:format("error: ~0p", [Error]) end,
        file:write_file(File ++ ".tmp", Answer), file:rename(File ++ ".tmp", File),
        Next();
      _ -> rabbit:stop(), mnesia:stop(), erlang:halt(0)
    end
  end,
  Loop()
end)."""


# What starting left on the heaps of its processes, a fifth of the node's memory, would stay there for as long as they
# have nothing to do.
_COLLECT = "lists:foreach(fun erlang:garbage_collect/1, processes())."


# A queue that was made less than half a second before its node was killed is recovered without its log, and then
# waits for ever for another member to elect it: it has none. Asked to, it elects itself.
_ELECT_LEADERS = (
    "lists:foreach(fun(Q) -> case amqqueue:is_quorum(Q) of true -> ra:trigger_election(amqqueue:get_pid(Q)); "
    "false -> ok end end, rabbit_amqqueue:list()), ok."
)


class _EndedError(RabbitMQStartError):
    """It ended by itself before it was ready."""


class RabbitNode:
    """One node below `data_dir`, which keeps its user, password and ports; all calls block.

    With a `metrics_port` it serves metrics for Prometheus there. Start and stop are safe to call twice. Not for use
    from several threads at once.
    """

    def __init__(self, data_dir: Path, *, amqp_port: int | None = None, metrics_port: int | None = None) -> None:
        self._dir = Path(data_dir).absolute()
        self._wanted_port = amqp_port
        self._metrics_port = metrics_port
        self._identity: Identity | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """AMQP URL with user and password: a secret."""
        me = self._me()
        return f"amqp://{me.user}:{me.password}@{LOOPBACK}:{me.amqp_port}/"

    @property
    def port(self) -> int:
        """The AMQP port."""
        return self._me().amqp_port

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
            RabbitMQStartError: Port or folder are in use, it ended, or it took longer than two minutes.
        """
        if self.pid is not None:
            return
        scripts = find_rabbitmq()
        me = self._me()
        knows_queues = self.log_file.exists()
        self.log_file.parent.mkdir(exist_ok=True)
        with locked(self._dir) as lock:
            if not is_free(me.amqp_port):
                raise RabbitMQStartError(
                    f"port {me.amqp_port} is in use: stop what listens there, or give another port."
                )
            write_config(self._dir, me, self._metrics_port)
            plugins = () if self._metrics_port is None else (METRICS_PLUGIN,)
            try:
                self._boot(lean_home(scripts, self._dir / "home", plugins), lock)
            except _EndedError:
                # An installation may need more than its parts say: then it gets everything, and takes longer.
                self._boot(scripts, lock)
        if knows_queues:
            self.control(_ELECT_LEADERS)
        self.control(_COLLECT)

    def stop(self) -> None:
        """Stop in order, so that everything is on disk; kills after 15 s."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin:
            process.stdin.close()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def kill(self) -> None:
        """End at once, as a crash would."""
        if self._process is not None:
            self._process.kill()
        self.stop()

    def add_vhost(self, name: str) -> None:
        """Make an empty vhost that this node's user may use."""
        user = self._me().user
        self.control(
            f'rabbit_vhost:add(<<"{name}">>, <<"{user}">>), rabbit_auth_backend_internal:set_permissions('
            f'<<"{user}">>, <<"{name}">>, <<".*">>, <<".*">>, <<".*">>, <<"{user}">>).'
        )

    def remove_vhost(self, name: str) -> None:
        """Remove a vhost with all that is in it; its clients are disconnected."""
        self.control(f'rabbit_vhost:delete(<<"{name}">>, <<"{self._me().user}">>).')

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

    def _me(self) -> Identity:
        if self._identity is None:
            self._identity = load_identity(self._dir, self._wanted_port)
        return self._identity

    def _boot(self, scripts: Path, lock: int) -> None:
        command = [str(scripts / "rabbitmq-server"), "-noshell", "-kernel", "inet_dist_use_interface", "{127,0,0,1}"]
        with (self._dir / "log" / "console.log").open("wb") as console:
            self._process = subprocess.Popen(
                [*command, "-eval", _CONTROL],
                env=self._environment(scripts),
                cwd=self._dir,
                start_new_session=True,
                pass_fds=[lock],
                stdin=subprocess.PIPE,
                stdout=console,
                stderr=console,
            )
        try:
            self._wait_ready(self._process)
        except BaseException:  # Also an interrupt leaves no node behind.
            self.kill()
            raise

    def _environment(self, scripts: Path) -> dict[str, str]:
        name = "qonduit@localhost"
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "LANG": "C.UTF-8",
            "HOME": str(self._dir),
            "RABBITMQ_SCRIPTS_DIR": str(scripts),
            "RABBITMQ_HOME": str(scripts.parent),
            "RABBITMQ_NODENAME": name,
            "RABBITMQ_MNESIA_BASE": str(self._dir / "data"),
            "RABBITMQ_LOG_BASE": str(self._dir / "log"),
            "RABBITMQ_LOGS": str(self.log_file),
            "RABBITMQ_CONFIG_FILE": str(self._dir / "rabbitmq.config"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self._dir / "none.config"),
            "RABBITMQ_CONF_ENV_FILE": os.devnull,
            "ERL_CRASH_DUMP_SECONDS": "0",  # A dump would hold messages and passwords.
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self._dir / "enabled_plugins"),
            # Erlang makes tables for as many as there may be; RabbitMQ asks for a million, 8 bytes each.
            "RABBITMQ_MAX_NUMBER_OF_PROCESSES": "65536",
            # Then the script becomes the Erlang machine (our child is the node itself) and leaves it the pipe.
            "RABBITMQ_ALLOW_INPUT": "1",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                "+S 2:2 +A 4 +Q 16384 +sbwt none +sbwtdcpu none +sbwtdio none "
                f"-sname {name} -start_epmd false -erl_epmd_port {self._me().dist_port}"
            ),
        }

    def _wait_ready(self, process: subprocess.Popen[bytes]) -> None:
        port = self._me().amqp_port
        deadline = time.monotonic() + START_TIMEOUT_S
        while not _speaks_amqp(port):
            if process.poll() is not None:
                raise _EndedError(f"RabbitMQ ended while starting (port {port}).\n{self._log_end()}")
            if time.monotonic() > deadline:
                text = f"RabbitMQ was not ready within {START_TIMEOUT_S:.0f} s (port {port}).\n{self._log_end()}"
                raise RabbitMQStartError(text)
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
