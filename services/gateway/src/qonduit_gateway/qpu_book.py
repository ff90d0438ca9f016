"""The book of QPU charges: what the QPU broker says that QPU work cost, each booked once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qonduit_service_kit.logs import get_logger

from qonduit_gateway.database import charge_rows

if TYPE_CHECKING:
    from qonduit_service_kit.messages import QpuCharged

    from qonduit_gateway.database.engine import Database
    from qonduit_gateway.instruments import Instruments

_log = get_logger("qpu-book")


class QpuBook:
    """The only writer of QPU charges.

    A provider may know what a job cost long after it ended, so a charge may come after the end of the job, or in
    a later attempt than the one that caused it: it counts for the job, whatever became of its attempts.
    """

    def __init__(self, database: Database, instruments: Instruments) -> None:
        self._database = database
        self._instruments = instruments

    async def take(self, charge: QpuCharged) -> None:
        """Book a charge; it returns after the commit. One that comes again changes nothing."""
        booked = await self._database.write(lambda connection: charge_rows.book(connection, charge))
        if booked is None:
            # The database was set back to an older one, which does not know the job: nobody is left to bill.
            _log.warning(
                "a QPU charge is for no job of ours", charge_id=charge.charge_id, job_id=charge.job_id, user=charge.user
            )
        elif booked:
            self._instruments.charged(charge.user, charge.qpu_seconds)
