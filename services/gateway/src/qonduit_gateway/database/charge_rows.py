"""QPU charges in the database."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import func, select

from qonduit_gateway.database.rows import inserted
from qonduit_gateway.database.schema import jobs, qpu_charges

if TYPE_CHECKING:
    from qonduit_service_kit.messages import QpuCharged
    from sqlalchemy import Connection


def book(connection: Connection, charge: QpuCharged) -> bool | None:
    """Book a charge once; False when it was booked before, None when its job is not in the book."""
    if connection.execute(select(jobs.c.job_id).where(jobs.c.job_id == charge.job_id)).first() is None:
        return None
    return inserted(
        connection,
        qpu_charges,
        charge_id=charge.charge_id,
        job_id=charge.job_id,
        user_name=charge.user,
        backend=charge.backend,
        mode=charge.mode,
        qpu_s=charge.qpu_seconds,
        at=charge.at,
    )


def total_of_user(connection: Connection, user_name: str, *, since: float) -> float:
    """Return the QPU seconds that a user was charged since a time."""
    query = select(func.coalesce(func.sum(qpu_charges.c.qpu_s), 0.0))
    query = query.where(qpu_charges.c.user_name == user_name, qpu_charges.c.at >= since)
    return float(connection.execute(query).scalar_one())


def total(connection: Connection, job_id: str) -> float:
    """Return the QPU seconds that a job was charged, in whichever of its attempts."""
    query = select(func.coalesce(func.sum(qpu_charges.c.qpu_s), 0.0)).where(qpu_charges.c.job_id == job_id)
    return float(connection.execute(query).scalar_one())
