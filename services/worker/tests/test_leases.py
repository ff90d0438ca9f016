from __future__ import annotations

from qonduit_service_kit.messages import DriverGranted, ExecutorGranted, JobSpec, Reason, Shape
from qonduit_worker.leases import Admission, LeaseTable

SHAPE = Shape(1000, 1024**3)


def driver(
    lease_id: str, *, term: int = 1, job_id: str = "j", attempt: int = 1, incarnation: str = ""
) -> DriverGranted:
    spec = JobSpec(job_id, attempt, "ada", "f", "v", "a", "main.py", "d", SHAPE, 60.0, 0.0, "ticket")
    return DriverGranted(term, lease_id, spec, incarnation)


def executor(lease_id: str, *, attempt: int = 1) -> ExecutorGranted:
    return ExecutorGranted(1, lease_id, "j", attempt, "ada", SHAPE, "w", "ticket")


def test_a_grant_becomes_a_lease_once() -> None:
    table = LeaseTable("life")
    assert table.admit(driver("l1")) is Admission.ACCEPTED
    assert table.admit(driver("l1")) is Admission.KNOWN
    assert [lease.lease_id for lease in table.statuses()] == ["l1"]
    assert table.end("l1")
    assert not table.end("l1")
    assert table.admit(driver("l1")) is Admission.KNOWN


def test_an_attempt_runs_under_one_lease_only_and_never_again() -> None:
    table = LeaseTable("life")
    table.admit(driver("l1"))
    assert table.admit(driver("l2")) is Admission.ATTEMPT_TAKEN
    table.end("l1")
    assert table.admit(driver("l3")) is Admission.ATTEMPT_TAKEN
    assert table.admit(driver("l4", attempt=2)) is Admission.ACCEPTED


def test_an_attempt_that_was_given_up_before_it_began_may_come_again() -> None:
    table = LeaseTable("life")
    table.admit(driver("l1"))
    table.admit(executor("l2"))
    assert table.give_up("l2")
    assert table.admit(driver("l3")) is Admission.ATTEMPT_TAKEN
    assert table.give_up("l1")
    assert not table.give_up("l1")
    assert table.admit(driver("l1")) is Admission.KNOWN
    assert table.admit(driver("l4")) is Admission.ACCEPTED


def test_a_job_may_have_many_executors() -> None:
    table = LeaseTable("life")
    assert {table.admit(executor(f"l{number}")) for number in range(3)} == {Admission.ACCEPTED}


def test_a_draining_worker_takes_nothing_new_and_keeps_what_it_has() -> None:
    table = LeaseTable("life")
    table.admit(driver("l1"))
    table.draining = True
    assert table.admit(driver("l1")) is Admission.KNOWN
    assert {table.admit(driver("l2", job_id="k")), table.admit(executor("l3"))} == {Admission.DRAINING}
    assert [lease.lease_id for lease in table.statuses()] == ["l1"]
    table.begin_anew("next")
    assert table.admit(driver("l4", job_id="k")) is Admission.DRAINING
    table.draining = False
    assert table.admit(driver("l4", job_id="k")) is Admission.ACCEPTED


def test_older_terms_are_refused() -> None:
    table = LeaseTable("life")
    table.saw_term(3)
    assert table.admit(driver("l1", term=2)) is Admission.OLD_TERM
    assert table.admit(driver("l1", term=4)) is Admission.ACCEPTED
    assert table.term == 4
    table.saw_term(1)
    assert table.term == 4


def test_a_stopped_attempt_and_those_before_it_may_not_start() -> None:
    table = LeaseTable("life")
    table.stop("j", 2, Reason.CANCELED)
    table.stop("j", 1, Reason.WORKER_LOST)
    assert table.stop_cause("j") is Reason.CANCELED
    assert table.admit(driver("l1", attempt=2)) is Admission.ATTEMPT_STOPPED
    assert table.admit(executor("l2", attempt=1)) is Admission.ATTEMPT_STOPPED
    assert table.admit(driver("l3", attempt=3)) is Admission.ACCEPTED
    assert table.admit(driver("l4", job_id="other")) is Admission.ACCEPTED


def test_grants_for_another_life_are_refused() -> None:
    table = LeaseTable("now")
    assert table.admit(driver("l1", incarnation="before")) is Admission.OTHER_LIFE
    assert table.admit(driver("l1", incarnation="now")) is Admission.ACCEPTED
    table.saw_term(7)
    table.begin_anew("later")
    assert table.statuses() == ()
    assert table.term == 7
    assert table.admit(driver("l2", term=7, incarnation="now")) is Admission.OTHER_LIFE
