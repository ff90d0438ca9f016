"""What can go wrong with a stack on this machine.

StackError
+-- AlreadyRunningError   another supervisor owns the data folder
+-- NotInstalledError     a service's package is missing
+-- PortInUseError        a port that was asked for is taken
+-- StartError            a service did not come up
    +-- WrongSettingsError    and would not at another try: its settings are wrong
"""

from __future__ import annotations

from qonduit.exceptions import QonduitError


class StackError(QonduitError):
    """The stack on this machine did not do what it was asked to."""


class AlreadyRunningError(StackError):
    """A stack runs on this data folder already."""


class NotInstalledError(StackError):
    """A service is not installed."""


class PortInUseError(StackError):
    """A port is in use."""


class StartError(StackError):
    """A service did not start."""


class WrongSettingsError(StartError):
    """A service's settings are wrong."""
