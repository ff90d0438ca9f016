"""What happens to attempts: submitted, withdrawn, over, lost; and their demand for executors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from qonduit_service_kit.messages import (
    GATEWAY,
    AttemptLost,
    DemandRefused,
    ExecutorLost,
    JobSpec,
    JobWithdrawn,
    LeaseKind,
    PlacementRefused,
    RunningAttempt,
    Shape,
    TaskDemand,
    UserLimited,
)

from qonduit_scheduler.picture import Attempt, Demand, MissedExecutor, Phase, Picture, Unanswered
from qonduit_scheduler.policy import dominant_share, due_after
from qonduit_scheduler.shapes import add, fits, need_and_offer
from qonduit_scheduler.waiting import Entry

if TYPE_CHECKING:
    from qonduit_scheduler.fleet import Lease
    from qonduit_scheduler.waiting import EntryKey

_OTHER_TIME: Final = 2.0
"""A demand's predicted time must change by this factor to change its place in the line."""
_MOST_TOLD: Final = 6
"""A gateway that was told this often without an answer knows nothing of the job."""


def submit(picture: Picture, spec: JobSpec, now: float, *, hold_back: bool = False) -> None:
    """Take an attempt into the queue; one that is known, over or older than the current is dropped.

    `hold_back` keeps it out of the line until the workers have told what they run: an earlier leader
    may have placed it, and it must not run twice.
    """
    _answered(picture, spec.job_id, spec.attempt - 1)
    if not _is_news(picture, spec):
        waiting = picture.attempts.get(spec.job_id)
        if waiting is not None and waiting.spec.attempt == spec.attempt and waiting.phase is Phase.QUEUED:
            # What is told again of one that has waited for long has a ticket that is good for longer.
            waiting.spec = spec
        return
    older = picture.attempts.get(spec.job_id)
    if older is not None:
        close(picture, older, now, "a newer attempt replaces this one")
    picture.limit_running(spec.user, spec.user_running_jobs)
    attempt = picture.attempts[spec.job_id] = Attempt(spec, Phase.QUEUED, fresh=not hold_back)
    if hold_back:
        picture.take_place(spec.user, spec.job_id)
    else:
        enqueue(picture, attempt, now)


def expect(picture: Picture, running: RunningAttempt, now: float) -> None:
    """Note an attempt that the gateway believes to run: its worker has until the lease would have ended."""
    if not _is_news(picture, running.spec):
        return
    until = now + picture.settings.lease_ttl_s + picture.settings.grace_s
    attempt = Attempt(running.spec, Phase.EXPECTED, expected_on=running.worker_id, expected_until=until)
    picture.attempts[running.spec.job_id] = picture.expected[running.spec.job_id] = attempt
    picture.limit_running(running.spec.user, running.spec.user_running_jobs)
    picture.take_place(running.spec.user, running.spec.job_id)


def limit_user(picture: Picture, message: UserLimited, now: float) -> None:
    """Take a user's new limit; what runs goes on."""
    del now
    picture.limit_running(message.user, message.running_jobs)


def _is_news(picture: Picture, spec: JobSpec) -> bool:
    over = picture.closed.get(spec.job_id)
    current = picture.attempts.get(spec.job_id)
    return (over is None or spec.attempt > over) and (current is None or spec.attempt > current.spec.attempt)


def enqueue(picture: Picture, attempt: Attempt, now: float, *, since: float | None = None) -> None:
    """Let a driver wait, or refuse it if no worker could ever hold it."""
    spec = attempt.spec
    shape = _with_task_room(picture, spec)
    if picture.settled and not picture.fleet.could_fit(spec.shape):
        refuse_driver(picture, attempt, now)
        return
    expected_s = picture.run_times.predict(LeaseKind.DRIVER, spec.user, spec.function_title)
    attempt.entry = Entry(
        key=_key(picture, spec, spec.shape, "", expected_s),
        kind=LeaseKind.DRIVER,
        job_id=spec.job_id,
        attempt=spec.attempt,
        user=spec.user,
        shape=shape,
        asked=spec.shape,
        waiting_since=now if since is None else since,
        expected_s=expected_s,
        work_ms=_work_ms(picture, spec.shape, expected_s),
        holds_s=picture.run_times.promise(LeaseKind.DRIVER, spec.user, spec.function_title),
    )
    picture.enter(attempt.entry)


def _with_task_room(picture: Picture, spec: JobSpec) -> Shape:
    """Return what a worker must have free for a driver, so that there is always room for somebody's tasks to go on.

    A function that is known to start none ends without that.
    """
    wider = add(spec.shape, Shape(0, picture.settings.task_room_bytes))
    needs_room = picture.habits.may_start(spec.user, spec.function_title) and picture.fleet.could_fit(wider)
    return wider if needs_room else spec.shape


def enqueue_again(picture: Picture, attempt: Attempt, now: float) -> None:
    """Let a driver wait without room beside it, or refuse it, as the workers that could give it that are gone."""
    entry, attempt.entry = attempt.entry, None
    if entry is not None:
        picture.withdraw(entry)
        enqueue(picture, attempt, now, since=entry.waiting_since)


def _key(picture: Picture, spec: JobSpec, shape: Shape, label: str, expected_s: float) -> EntryKey:
    """Return the place in the user's order: by priority, then by when it is due, counted from the job's submission."""
    size, backlog_s = picture.fleet.size_of(shape), picture.line.work_ms / 1000
    due_s = due_after(expected_s=expected_s, size=size, backlog_s=backlog_s, settings=picture.settings)
    return (-spec.priority, spec.submitted_at + due_s, spec.job_id, label)


def _work_ms(picture: Picture, shape: Shape, run_s: float) -> int:
    return round(1000 * run_s * dominant_share(shape, picture.fleet.total))


def expected_run_s(picture: Picture, attempt: Attempt, lease: Lease) -> float:
    """Return the predicted run time of a driver's program, or of an executor's next task."""
    if lease.kind is LeaseKind.DRIVER:
        return picture.run_times.predict(lease.kind, lease.user, attempt.spec.function_title)
    wanted = attempt.demands.get(lease.shape)
    return wanted.task_s if wanted is not None else picture.run_times.predict(lease.kind, lease.user, "")


def withdraw(picture: Picture, message: JobWithdrawn, now: float) -> None:
    """End all attempts up to one. Also before they are submitted: a cancel beats a placement."""
    _answered(picture, message.job_id, message.attempt)
    attempt = picture.attempts.get(message.job_id)
    if attempt is not None and attempt.spec.attempt <= message.attempt:
        close(picture, attempt, now, "the gateway ended this attempt")
    over = picture.closed.get(message.job_id)
    if over is None or over < message.attempt:
        picture.closed.remember(message.job_id, message.attempt)


def close(picture: Picture, attempt: Attempt, now: float, cause: str) -> None:
    """End an attempt: nothing of it waits any more, and its leases are taken back at once."""
    spec = attempt.spec
    if attempt.entry is not None:
        picture.withdraw(attempt.entry)
        attempt.entry = None
    for demand in attempt.demands.values():
        _stop_waiting(picture, demand)
    for lease in (attempt.driver, *attempt.executors.values()):
        if lease is not None:
            picture.revoke(lease, now, cause, at_once=True)
    del picture.attempts[spec.job_id]
    picture.expected.pop(spec.job_id, None)
    picture.running.give_back(spec.user, spec.job_id)
    picture.with_executors.pop(spec.job_id, None)
    picture.closed.remember(spec.job_id, spec.attempt)


def lose_attempt(picture: Picture, attempt: Attempt, now: float, worker_id: str, text: str) -> None:
    """Report an attempt whose driver is gone; the gateway alone decides about the next attempt."""
    spec = attempt.spec
    attempt.driver = None
    close(picture, attempt, now, text)
    picture.tally.attempts_lost += 1
    _tell_until_answered(picture, AttemptLost(spec.job_id, spec.attempt, worker_id, text), now)


def end_attempt(picture: Picture, attempt: Attempt, now: float, worker_id: str) -> None:
    """Close an attempt whose program has ended, of which its worker told the gateway before.

    If the gateway says nothing for long, its message was lost on the way, and so is the attempt.
    """
    spec = attempt.spec
    attempt.driver = None
    close(picture, attempt, now, "the job's program has ended")
    lost = AttemptLost(spec.job_id, spec.attempt, worker_id, f"worker {worker_id} ended it, and how was not heard")
    picture.unanswered[spec.job_id] = Unanswered(lost, now + picture.settings.unheard_s, told=0)


def refuse_driver(picture: Picture, attempt: Attempt, now: float) -> None:
    """Tell the gateway that no worker could ever run this attempt, with the numbers."""
    spec = attempt.spec
    need, offer = need_and_offer(spec.shape, picture.fleet.nearest_offer(spec.shape))
    text = f"needs {need}; the largest worker offers {offer}. Ask for less, or add a larger worker."
    close(picture, attempt, now, text)
    picture.tally.refusals += 1
    _tell_until_answered(picture, PlacementRefused(spec.job_id, spec.attempt, text), now)


def tell_again(picture: Picture, now: float) -> None:
    """Tell the gateway again what it should have answered long ago, at doubling intervals."""
    for job_id, waiting in list(picture.unanswered.items()):
        if waiting.tell_at > now:
            continue
        picture.send(GATEWAY, waiting.body)
        if waiting.told >= _MOST_TOLD:
            del picture.unanswered[job_id]
            continue
        pause_s = picture.settings.unheard_s * 2**waiting.told
        picture.unanswered[job_id] = Unanswered(waiting.body, now + pause_s, waiting.told + 1)


def _tell_until_answered(picture: Picture, body: AttemptLost | PlacementRefused, now: float) -> None:
    """Tell the gateway the end of an attempt; it answers with a newer attempt or a withdrawal."""
    picture.send(GATEWAY, body)
    picture.unanswered[body.job_id] = Unanswered(body, now + picture.settings.unheard_s, told=1)


def _answered(picture: Picture, job_id: str, attempt: int) -> None:
    """Note that the gateway knows all attempts up to one to be over."""
    waiting = picture.unanswered.get(job_id)
    if waiting is not None and waiting.body.attempt <= attempt:
        del picture.unanswered[job_id]


# --- Executors -----------------------------------------------------------------------------------


def demand(picture: Picture, message: TaskDemand, now: float) -> None:
    """Take the absolute count of an attempt's unfinished tasks of one shape; an older count is dropped."""
    attempt = picture.attempts.get(message.job_id)
    if attempt is None or attempt.spec.attempt != message.attempt:
        return
    known = attempt.demands.get(message.shape)
    if known is None:
        executors = [lease for lease in attempt.executors.values() if lease.shape == message.shape]
        held, lending = sum(lease.serves for lease in executors), sum(lease.lends_cpu for lease in executors)
        known = attempt.demands[message.shape] = Demand(message, held=held, lending=lending)
    elif message.sequence <= known.message.sequence:
        return
    known.message = message
    user = attempt.spec.user
    if message.task_s > 0:
        picture.run_times.told(LeaseKind.EXECUTOR, user, message.task_name, message.task_s)
    known.task_s = picture.run_times.predict(LeaseKind.EXECUTOR, user, message.task_name)
    known.holds_s = picture.run_times.promise(LeaseKind.EXECUTOR, user, message.task_name)
    _miss_unreported(picture, attempt, message, now)
    refresh_demand(picture, attempt, known, now)


def refresh_demands(picture: Picture, attempt: Attempt, now: float) -> None:
    """Let an attempt's demands wait, or not, after its executors changed."""
    for wanted in attempt.demands.values():
        refresh_demand(picture, attempt, wanted, now)


def refresh_demand(picture: Picture, attempt: Attempt, wanted: Demand, now: float) -> None:
    """Let a demand wait exactly if it wants an executor more and the job's limit allows one more."""
    message = wanted.message
    may_ask = attempt.phase is not Phase.QUEUED and (picture.settled or attempt.fresh)
    if not may_ask or wanted.missing <= 0:
        _stop_waiting(picture, wanted)
        return
    refusal = _refusal(picture, attempt, message)
    if refusal:
        _stop_waiting(picture, wanted)
    elif not fits(add(attempt.executors_use, message.shape), message.limit):
        if (message.job_id, message.shape) not in picture.at_limit:
            wanted.at_limit_since = now
        _stop_waiting(picture, wanted)
        picture.at_limit[message.job_id, message.shape] = wanted
    else:
        picture.at_limit.pop((message.job_id, message.shape), None)
        _let_wait(picture, attempt.spec, wanted, now)
    if refusal:
        wanted.message = _without_tasks(message)
        picture.tally.refusals += 1
        body = DemandRefused(message.job_id, message.attempt, message.shape, refusal)
        picture.tell_worker(message.worker_id, body)


def _let_wait(picture: Picture, spec: JobSpec, wanted: Demand, now: float) -> None:
    """Let a demand wait for the executors that it misses, or bring its entry up to date."""
    shape, expected_s, count, entry = wanted.message.shape, wanted.expected_s, wanted.missing, wanted.entry
    if entry is None:
        wanted.entry = Entry(
            key=_key(picture, spec, shape, shape.label, expected_s),
            kind=LeaseKind.EXECUTOR,
            job_id=spec.job_id,
            attempt=spec.attempt,
            user=spec.user,
            shape=shape,
            asked=shape,
            waiting_since=now,
            count=count,
            expected_s=expected_s,
            work_ms=_work_ms(picture, shape, wanted.task_s * count),
            holds_s=wanted.holds_s,
        )
        picture.enter(wanted.entry)
        return
    entry.holds_s = wanted.holds_s
    if not entry.expected_s / _OTHER_TIME <= expected_s <= entry.expected_s * _OTHER_TIME:
        entry.expected_s = expected_s
        work_ms = _work_ms(picture, shape, wanted.task_s * count)
        picture.move(entry, _key(picture, spec, shape, shape.label, expected_s), work_ms)
    if entry.count != count:
        entry.count = count
        picture.changed = True


def _refusal(picture: Picture, attempt: Attempt, message: TaskDemand) -> str:
    """Return why a shape could never be granted to this attempt, or '' if it could."""
    if not fits(message.shape, message.limit):
        need, limit = need_and_offer(message.shape, message.limit)
        return (
            f"a task needs {need}; this job's tasks may hold at most {limit} together. "
            "Ask for less, or for a higher limit."
        )
    beside = None
    if attempt.driver is not None:
        # The driver's cpu is lent while it waits; its memory and gpus stay taken.
        held = Shape(0, attempt.driver.shape.mem_bytes, attempt.driver.shape.gpus)
        beside = (attempt.driver.worker_id, held)
    if not picture.settled or picture.fleet.could_fit(message.shape, beside=beside):
        return ""
    need, offer = need_and_offer(message.shape, picture.fleet.nearest_offer(message.shape, beside=beside))
    return (
        f"a task needs {need}; the largest worker offers {offer} beside the job's own program. "
        "Ask for less, or add a larger worker."
    )


def _without_tasks(message: TaskDemand) -> TaskDemand:
    """Return the demand as it is after its tasks were refused; only a newer message asks again."""
    return TaskDemand(
        job_id=message.job_id,
        attempt=message.attempt,
        worker_id=message.worker_id,
        user=message.user,
        shape=message.shape,
        unfinished=0,
        sequence=message.sequence,
        limit=message.limit,
    )


def _stop_waiting(picture: Picture, wanted: Demand) -> None:
    if picture.at_limit.pop((wanted.message.job_id, wanted.message.shape), None) is not None:
        picture.changed = True
    if wanted.entry is not None:
        picture.withdraw(wanted.entry)
        wanted.entry = None


def _miss_unreported(picture: Picture, attempt: Attempt, message: TaskDemand, now: float) -> None:
    """Miss executors that hold tasks and that no worker reports, e.g. lost while no scheduler was there."""
    until = now + picture.settings.lease_ttl_s + picture.settings.grace_s
    for lease_id, worker_id in message.executors:
        if lease_id in attempt.executors or lease_id in picture.missed:
            continue
        worker = picture.fleet.workers.get(worker_id)
        known_gone = lease_id in picture.ended or (worker is not None and lease_id not in worker.leases)
        missed = MissedExecutor(message.job_id, message.attempt, worker_id, now if known_gone else until)
        picture.missed[lease_id] = missed
    give_up_missed(picture, now)


def give_up_missed(picture: Picture, now: float) -> None:
    """Report missed executors whose time is over; their driver's agent sends their tasks again."""
    for lease_id, missed in list(picture.missed.items()):
        if missed.until <= now:
            del picture.missed[lease_id]
            executor_gone(picture, missed.job_id, missed.attempt, lease_id, f"worker {missed.worker_id} is gone")


def lose_executor(picture: Picture, lease: Lease, cause: str) -> None:
    """Report an executor that has ended without a word of its own."""
    executor_gone(picture, lease.job_id, lease.attempt, lease.lease_id, cause)


def executor_gone(picture: Picture, job_id: str, number: int, lease_id: str, cause: str) -> None:
    """Tell the driver's agent, if the attempt is still current, that an executor's tasks are free again."""
    attempt = picture.attempts.get(job_id)
    if attempt is None or attempt.spec.attempt != number:
        return
    driver_worker = attempt.driver.worker_id if attempt.driver is not None else attempt.expected_on
    if driver_worker:
        picture.tally.executors_lost += 1
        picture.tell_worker(driver_worker, ExecutorLost(job_id, number, lease_id, cause))
