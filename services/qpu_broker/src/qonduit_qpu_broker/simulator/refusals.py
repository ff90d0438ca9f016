"""Why a simulation is refused or fails, in words for a program's author."""

from __future__ import annotations


class SimulationError(Exception):
    """The job can't be simulated; the text says why and what to do."""

    code = 9999


class TooWideError(SimulationError):
    """A circuit uses more qubits than fit in memory."""

    code = 1508


class UnsupportedError(SimulationError):
    """The simulator does not do this."""

    code = 1510


class InvalidInputError(SimulationError):
    """The submitted parameters can't be read."""

    code = 1403


class TooLargeError(SimulationError):
    """The result is larger than what is kept."""

    code = 1509
