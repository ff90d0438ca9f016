"""What can go wrong with sandboxes.

SandboxError
├── ZygoteStartError
├── ZygoteDiedError
└── SandboxStartError
"""


class SandboxError(Exception):
    """A sandbox could not be made or kept."""


class ZygoteStartError(SandboxError):
    """A zygote could not be started; the text has what its process said. Trying again will not help."""


class ZygoteDiedError(SandboxError):
    """The zygote is not running, and what was forked from it is dead. Start it again and retry."""


class SandboxStartError(SandboxError):
    """A sandbox could not be set up before its program began; the text says which step the kernel refused."""
