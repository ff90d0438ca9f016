"""A QPU job to write into a ledger."""

from __future__ import annotations

from qonduit_qpu_broker.ledger.records import NewJob
from qonduit_service_kit.messages import Address

JOB = NewJob(
    job_id="job-1",
    attempt=1,
    user="ada",
    caller="driver",
    call_number=1,
    digest="d",
    reply_to=Address("qonduit.workers", "w1"),
    program="sampler",
    backend="ibm_torino",
    session_id="",
    tags=(),
    private=False,
    cost_s=0,
    api_version="",
    body=b"{}",
    body_digest="",
)
"""A test changes what it is about with `dataclasses.replace`."""
