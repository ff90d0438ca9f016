"""Where the server is, and with which token: environment variables, then profiles.

    1. what the code passes itself
    2. QONDUIT_ADDRESS and QONDUIT_TOKEN
    3. the profile file that QONDUIT_PROFILE names
    4. the profile of the stack in the data folder that QONDUIT_HOME names
    5. the user's profile, $XDG_CONFIG_HOME/qonduit/profile.json, which `qonduit up` writes

An address is "host:port", or "http://host:port" (in the clear) or "https://host:port" (TLS). Without a
scheme, TLS is used for everything but this machine, so that no token travels in the clear by accident.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from qonduit.exceptions import ConfigurationError

AGENT_SOCKET_VARIABLE = "QONDUIT_AGENT_SOCKET"


@dataclass(frozen=True, slots=True)
class Target:
    """A server and the right to use it."""

    address: str
    token: str
    ca_file: str = ""
    """Certificates to trust with TLS; empty means the system's."""
    origin: str = "arguments"
    """Where it was found, for `qonduit doctor`."""

    def __repr__(self) -> str:
        return f"Target(address={self.address!r}, origin={self.origin!r})"

    @property
    def host_port(self) -> str:
        """The address less its scheme."""
        return self.address.removeprefix("http://").removeprefix("https://").rstrip("/")

    @property
    def on_this_machine(self) -> bool:
        """Whether the address is a loopback one."""
        host = self.host_port.rpartition(":")[0].strip("[]")
        return host in {"localhost", "::1"} or host.startswith("127.")

    @property
    def encrypted(self) -> bool:
        """Whether TLS is used."""
        if self.address.startswith("http://"):
            return False
        return self.address.startswith("https://") or not self.on_this_machine


def inside_program() -> bool:
    """Tell whether this process is a program that Qonduit runs."""
    return bool(os.environ.get(AGENT_SOCKET_VARIABLE))


def config_dir() -> Path:
    """Return the folder of the user's settings."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "qonduit"


def default_data_dir() -> Path:
    """Return the data folder of a stack whose user named none."""
    if named := os.environ.get("QONDUIT_HOME"):
        return Path(named).absolute()
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "qonduit"


def user_profile_path() -> Path:
    """Return the profile file that is read when nothing else is said."""
    if named := os.environ.get("QONDUIT_PROFILE"):
        return Path(named)
    return config_dir() / "profile.json"


def winning_variables() -> list[str]:
    """Return the environment variables that are set and win over QONDUIT_HOME."""
    return [name for name in ("QONDUIT_ADDRESS", "QONDUIT_TOKEN", "QONDUIT_PROFILE") if os.environ.get(name)]


def find_target(host: str | None = None, token: str | None = None) -> Target:
    """Return the server to talk to; what is passed wins over the environment, and that over profiles.

    Raises:
        ConfigurationError: No server, or no token, is known; or a profile cannot be read.
    """
    found = _from_environment_and_profiles()
    if host and not token and found and _same_server(host, found.address):
        token = found.token
    address = host or (found.address if found else "")
    if not address:
        raise ConfigurationError
    if token is None and not host and found:
        token = found.token
    if not token:
        raise ConfigurationError(f"No token for {address} is known: pass token=, or set QONDUIT_TOKEN.")
    ca_file = os.environ.get("QONDUIT_CA_FILE", "")
    return Target(address, token, ca_file, found.origin if found and not host else "arguments")


def known_target() -> Target | None:
    """Return the server that environment and profiles name, if they name one and a token for it."""
    found = _from_environment_and_profiles()
    return found if found and found.address and found.token else None


def _same_server(one: str, other: str) -> bool:
    return Target(one, "").host_port == Target(other, "").host_port


def _from_environment_and_profiles() -> Target | None:
    address, token = os.environ.get("QONDUIT_ADDRESS", ""), os.environ.get("QONDUIT_TOKEN", "")
    if address and token:
        return Target(address, token, origin="QONDUIT_ADDRESS, QONDUIT_TOKEN")
    profile = _first_profile()
    if profile is None:
        return Target(address, token, origin="environment") if address or token else None
    if address and not _same_server(address, profile.address):
        # A profile's token is for the profile's server alone.
        return Target(address, token, origin="QONDUIT_ADDRESS")
    return Target(profile.address, token or profile.token, origin=profile.origin)


def _first_profile() -> Target | None:
    if not os.environ.get("QONDUIT_PROFILE") and (home := os.environ.get("QONDUIT_HOME")):
        return read_profile(Path(home) / "profile.json")
    return read_profile(user_profile_path())


@dataclass(frozen=True, slots=True)
class _Profile:
    address: str
    token: str
    data_dir: str = ""


def read_profile(path: Path) -> Target | None:
    """Return what a profile names, None if there is no such file; ConfigurationError if it is damaged."""
    try:
        content = json.loads(path.read_text())
        return Target(str(content["address"]), str(content["token"]), origin=str(path))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(
            f"The profile {path} cannot be read ({error}). Remove it; `qonduit up` writes a new one."
        ) from error


def profile_data_dir(path: Path) -> Path | None:
    """Return the data folder of the stack that wrote a profile, if one did."""
    try:
        folder = json.loads(path.read_text()).get("data_dir")
    except (OSError, ValueError, AttributeError):
        return None
    return Path(folder) if folder else None


def write_profile(path: Path, target: Target, data_dir: Path) -> None:
    """Write a profile that only its owner can read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = _Profile(target.address, target.token, str(data_dir))
    write_private(path, json.dumps(asdict(content), indent=2) + "\n")


def write_private(path: Path, text: str) -> None:
    """Replace a file in one step by one with mode 0600."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    temporary.replace(path)
