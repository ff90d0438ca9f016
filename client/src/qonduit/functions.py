"""Functions: what a user uploads, and what they run."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from qonduit.configuration import Configuration
from qonduit.exceptions import ConflictError, InvalidFunctionError, QonduitError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from qonduit.client import ServerlessClient
    from qonduit.job import Job


LATEST: Final = "latest"


def full_name(title: str, provider: str | None) -> str:
    """Return what names a function: its title, or "provider/title"."""
    return f"{provider}/{title}" if provider else title


@dataclass(frozen=True, slots=True)
class QiskitFunction:
    """A program with all that it needs, to be uploaded.

    Attributes:
        title: Its name: 1 to 255 letters, digits, '_', '-' and '.'. "provider/title" is the same as both apart.
        provider: The provider that publishes it, of which the user is an admin; without one it is the user's own.
        entrypoint: The program to start, relative to `working_dir`.
        working_dir: The folder that is uploaded, less version control, caches and virtual environments.
        dependencies: Requirements such as "numpy>=2".
        env_vars: Environment variables of the program.
        description: For people.
        version: The author's own version label, for people; each content has a digest of its own anyway.
        arguments_schema: A JSON Schema that the arguments of each job must fit, as they are encoded; jobs whose
            arguments don't are refused before they begin.

    Raises:
        InvalidFunctionError: It names two providers.
    """

    title: str
    provider: str | None = None
    entrypoint: str | None = None
    working_dir: str = "./"
    env_vars: Mapping[str, str] = field(default_factory=dict)
    dependencies: Sequence[str] = ()
    description: str = ""
    version: str = ""
    arguments_schema: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        named, slash, title = self.title.partition("/")
        if not slash:
            return
        if self.provider not in {None, "", named}:
            raise InvalidFunctionError(
                f"{self.title!r} is no title of a function of {self.provider!r}: name one provider."
            )
        object.__setattr__(self, "title", title)
        object.__setattr__(self, "provider", named)

    @property
    def name(self) -> str:
        """What it is called on the server: its title, or "provider/title"."""
        return full_name(self.title, self.provider)


@dataclass(frozen=True, slots=True)
class FunctionFile:
    """A file of a function's version."""

    path: str
    size_bytes: int
    digest: str
    """sha256, in hexadecimal."""


@dataclass(frozen=True, slots=True)
class FunctionDiff:
    """What one version has and another has not, by path."""

    added: tuple[FunctionFile, ...]
    removed: tuple[FunctionFile, ...]
    changed: tuple[tuple[FunctionFile, FunctionFile], ...]
    """Before and after."""


@dataclass(frozen=True, slots=True, repr=False)
class RunnableQiskitFunction:
    """A function on a server: `run` starts a job of it."""

    title: str
    entrypoint: str
    version: str
    """The digest that names exactly this content."""
    version_label: str = ""
    description: str = ""
    dependencies: tuple[str, ...] = ()
    owner: str = ""
    size_bytes: int = 0
    created: datetime | None = None
    aliases: tuple[str, ...] = ()
    """What stood for this version when it was asked for, "latest" included."""
    arguments_schema: Mapping[str, Any] | None = None
    """What arguments must fit."""
    provider: str = ""
    """The provider whose function it is; empty for the user's own."""
    disabled_text: str = ""
    """Why it accepts no jobs, as its provider says; empty when it does."""
    roles: tuple[str, ...] = ()
    """What the user may do with a provider's function: "READ", "RUN", "TRIAL", "LOGS", "FILES", "ADMIN"."""
    pinned: bool = False
    """Whether `run` runs this very version, because it was asked for by its digest or an alias."""
    client: ServerlessClient | None = field(default=None, repr=False, compare=False)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}, version {self.version[:12]}>"

    @property
    def name(self) -> str:
        """What it is called on the server: its title, or "provider/title"."""
        return full_name(self.title, self.provider)

    def run(self, *, config: Configuration | None = None, qpu_budget_s: float | None = None, **arguments: Any) -> Job:
        """Start a job: `function.run(circuit=circuit, shots=1024)`.

        It runs what the title stands for when it is called, which may be newer than this object, unless a version was
        asked for by its digest or an alias: then it is this one. An argument that is called `config` or `qpu_budget_s`
        goes through `client.run(function, arguments={...})`.

        Args:
            config: What the job asks for.
            qpu_budget_s: Most QPU seconds that the job may be charged, instead of what `config` says of it.
            arguments: The program's arguments.

        Raises:
            NotSerializableError: An argument cannot be written as JSON; the text says which.
            FunctionNotFoundError: The function is gone, or may not be seen any more.
            FunctionDisabledError: Its provider accepts no jobs of it; the text says why.
            RoleMissingError: The user may see and not run it.
            TypeError: `config` is no Configuration.
            ValueError: The budget makes no sense.
        """
        if config is not None and not isinstance(config, Configuration):
            raise TypeError(
                f"config is reserved for a Configuration, and this is a {type(config).__name__}. An argument of that "
                f"name goes by client.run({self.name!r}, arguments={{'config': ...}})."
            )
        if qpu_budget_s is not None:
            config = replace(config or Configuration(), qpu_budget_s=qpu_budget_s)
        return self._client().run(self, arguments=arguments, config=config)

    def jobs(self, *, limit: int = 10, status: str | None = None) -> list[Job]:
        """Return this function's jobs, newest first."""
        return self._client().jobs(self.name, limit=limit, status=status)

    def versions(self) -> list[RunnableQiskitFunction]:
        """Return all versions of this function, newest upload first; each is pinned."""
        client = self._client()
        return [replace(version, client=client) for version in client.function_calls.versions(self.name)]

    def files(self) -> list[FunctionFile]:
        """Return the files of this version, by path."""
        return [file for file, _ in self._client().function_calls.files(self.name, self.version)]

    def diff(self, newer: RunnableQiskitFunction | str) -> FunctionDiff:
        """Return what another version has and this one has not.

        Args:
            newer: The other version, or its alias, its digest, or 8 digits of that or more.

        Raises:
            InvalidRequestError: No version has this alias or digest; the text names the aliases that there are.
        """
        other = self._client().get(self.name, version=newer) if isinstance(newer, str) else newer
        before = {file.path: file for file in self.files()}
        after = {file.path: file for file in other.files()}
        return FunctionDiff(
            added=tuple(file for path, file in after.items() if path not in before),
            removed=tuple(file for path, file in before.items() if path not in after),
            changed=tuple(
                (before[path], file)
                for path, file in after.items()
                if path in before and before[path].digest != file.digest
            ),
        )

    def set_alias(self, alias: str) -> RunnableQiskitFunction:
        """Have an alias stand for this version: `client.run("title@alias")` runs it from now on.

        Jobs that were accepted keep their version.

        Args:
            alias: A word such as "stable"; or "latest", which the next upload sets again.

        Raises:
            InvalidRequestError: It can't be an alias; the text says why.
        """
        client = self._client()
        return replace(client.function_calls.set_alias(self.name, alias, self.version), client=client)

    def remove_alias(self, alias: str) -> None:
        """Remove an alias of this function, whatever it stands for; NotFoundError if there is none."""
        self._client().function_calls.remove_alias(self.name, alias)

    def rollback(self) -> RunnableQiskitFunction:
        """Have "latest" stand for the version before the one that it stands for, and return that.

        Raises:
            ConflictError: There is no version before it.
        """
        versions = self.versions()
        latest = next(place for place, version in enumerate(versions) if LATEST in version.aliases)
        if latest + 1 == len(versions):
            raise ConflictError(
                f"{self.name} has no version before {versions[latest].version[:12]}: there is nothing to go back to."
            )
        return versions[latest + 1].set_alias(LATEST)

    def _client(self) -> ServerlessClient:
        if self.client is None:
            raise QonduitError("This function belongs to no client: get it with client.get(title).")
        return self.client


AnyFunction = QiskitFunction | RunnableQiskitFunction | str


def name_of(function: AnyFunction) -> str:
    """Return what names a function on the server: its title, or "provider/title"."""
    return function if isinstance(function, str) else function.name
