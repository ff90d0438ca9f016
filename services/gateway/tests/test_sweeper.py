"""What is told again, and when."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gateway_book import KEY
from prometheus_client import CollectorRegistry
from qonduit_gateway.cluster_view import ClusterView
from qonduit_gateway.database import outbox_rows
from qonduit_gateway.database.outbox_rows import Lane
from qonduit_gateway.instruments import Instruments
from qonduit_gateway.outgoing import OutgoingFactory
from qonduit_gateway.sweeper import Sweeper
from qonduit_service_kit.messages import ClusterReport, LeaseKind, Shape, WaitingView
from qonduit_service_kit.tickets import TicketSigner

if TYPE_CHECKING:
    from gateway_book import Book

DAY_S = 24 * 3600.0
SHAPE = Shape(1000, 2**31)


class Relay:
    """Sends nothing: the test reads what waits to be sent."""

    def wake(self) -> None:
        """Nobody sleeps."""


async def sent(book: Book) -> list[Any]:
    """Return what waited to be sent, as if it were sent now."""
    messages = await book.outbox()
    rows = await book.database.read(lambda connection: outbox_rows.waiting(connection, Lane.BUS, limit=1000))
    await book.database.write(lambda connection: outbox_rows.remove(connection, [number for number, _ in rows]))
    return messages


def sweeper_of(book: Book, cluster: ClusterView) -> Sweeper:
    return Sweeper(
        book.database,
        Relay(),  # type: ignore[arg-type]
        OutgoingFactory(TicketSigner(KEY), limit=SHAPE, clock=lambda: book.now),
        cluster,
        Instruments(CollectorRegistry(), by_user=False),
        tell_again_s=10,
        clock=lambda: book.now,
    )


async def test_what_is_on_its_way_is_not_said_again_and_delays_nobody_else(book: Book) -> None:
    sweeper = sweeper_of(book, ClusterView())
    lost = await book.job()
    await sent(book)
    book.now += 20
    others = await book.job()
    await sweeper.sweep()
    assert [message.spec.job_id for message in await book.outbox()] == [others, lost]
    book.now += 60  # The broker is down.
    await sweeper.sweep()
    assert len(await book.outbox()) == 2
    await sent(book)
    await sweeper.sweep()
    assert {message.spec.job_id for message in await book.outbox()} == {others, lost}


async def test_a_job_that_waits_for_days_always_has_a_ticket_that_is_good_when_it_runs(book: Book) -> None:
    signer, cluster = TicketSigner(KEY), ClusterView()
    sweeper = sweeper_of(book, cluster)
    job_id = await book.job()
    view = WaitingView(job_id, 1, LeaseKind.DRIVER, SHAPE, 1, 1, "ada has 1 job running", "ada", book.now)
    cluster.update(ClusterReport(1, book.now, (), (view,), 1))
    (first,) = await sent(book)
    good_until = signer.verify(first.spec.storage_ticket).expires_at
    announced = 0
    end = book.now + 1.5 * DAY_S
    while book.now < end:
        book.now += 320
        await sweeper.sweep()
        for message in await sent(book):
            announced += 1
            good_until = signer.verify(message.spec.storage_ticket).expires_at
        assert good_until > book.now + first.spec.time_limit_s, "a run that began now would outlive its ticket"
    assert announced < 5, "the scheduler has it on its list: it need not hear of it again and again"
