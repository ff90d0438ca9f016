"""Between workers: who is given a blob that is on the driver's worker alone asks that to bring it to storage."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol

from qonduit_service_kit.bus import BusError, UnroutableError
from qonduit_service_kit.logs import get_logger
from qonduit_service_kit.messages import BlobReady, BlobWanted, worker

from qonduit_worker.storage import StorageError

if TYPE_CHECKING:
    from qonduit_service_kit.messages import Address

    from qonduit_worker.blobs import BlobCache

ASK_AGAIN_S: Final = 2.0
PATIENCE_S: Final = 30.0
"""Without any answer. One that brings a large blob says so each time that it is asked."""

_Key = tuple[str, int, str]
_log = get_logger(__name__)


class Publisher(Protocol):
    """The bus, as far as it is used here."""

    async def publish(self, address: Address, message: object) -> None:
        """Publish a message; raises BusError."""
        ...


class BlobExchange:
    """Asks other workers for blobs, and answers them. Any of these messages may come twice, late or never."""

    def __init__(
        self,
        bus: Publisher,
        cache: BlobCache,
        worker_id: str,
        *,
        ask_again_s: float = ASK_AGAIN_S,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._bus = bus
        self._cache = cache
        self._ask_again_s = ask_again_s
        self._patience_s = patience_s
        self._asking: dict[_Key, asyncio.Task[str]] = {}
        self._answers: dict[_Key, asyncio.Queue[BlobReady]] = {}
        self._askers: dict[_Key, set[str]] = {}
        self.worker_id = worker_id

    async def ask(self, home: str, job_id: str, attempt: int, name: str) -> str:
        """Return a blob's sha256 once the worker `home` has brought it to storage; calls for one share one question.

        Raises:
            StorageError: It will not come: the worker is gone (BLOB_LOST) or said why.
        """
        key = job_id, attempt, name
        task = self._asking.get(key)
        if task is None:
            task = asyncio.create_task(self._ask(home, key))
            self._asking[key] = task
            task.add_done_callback(lambda task: self._asked(key, task))
        return await asyncio.shield(task)

    def _asked(self, key: _Key, task: asyncio.Task[str]) -> None:
        self._asking.pop(key, None)
        self._answers.pop(key, None)
        if not task.cancelled():
            task.exception()  # Whoever waited was told; maybe nobody waits any more.

    async def _ask(self, home: str, key: _Key) -> str:
        job_id, attempt, name = key
        answers = self._answers[key] = asyncio.Queue()
        wanted = BlobWanted(job_id, attempt, name, self.worker_id)
        silent_s = 0.0
        while silent_s < self._patience_s:
            try:
                await self._bus.publish(worker(home), wanted)
            except UnroutableError:
                raise _lost(name, home, "is gone") from None
            except BusError as error:
                raise StorageError("UNAVAILABLE", f"worker {home} cannot be asked: {error}", transient=True) from error
            answer = await self._next(answers)
            while answer is not None and not answer.ready and not answer.text:  # It is on its way.
                silent_s = 0.0
                answer = await self._next(answers)
            if answer is None:  # The question or its answer may be lost.
                silent_s += self._ask_again_s
            elif answer.stored_as:
                return answer.stored_as
            else:
                raise StorageError("BLOB_NOT_FOUND", f"worker {home} cannot bring blob {name}: {answer.text}")
        raise _lost(name, home, f"has not answered for {self._patience_s:.0f} s")

    async def _next(self, answers: asyncio.Queue[BlobReady]) -> BlobReady | None:
        try:
            return await asyncio.wait_for(answers.get(), self._ask_again_s)
        except TimeoutError:
            return None

    def take(self, ready: BlobReady) -> None:
        """Take an answer; one that nobody waits for changes nothing."""
        answers = self._answers.get((ready.job_id, ready.job_attempt, ready.digest))
        if answers is not None:
            answers.put_nowait(ready)

    async def bring(self, wanted: BlobWanted) -> None:
        """Bring a blob of an attempt whose driver is here to storage, and say so to all who asked meanwhile."""
        key = wanted.job_id, wanted.job_attempt, wanted.digest
        scope = self._cache.scope(wanted.job_id, wanted.job_attempt)
        if scope is None:
            await self._answer(key, {wanted.worker_id}, text="its job's attempt is over there")
            return
        askers = self._askers.get(key)
        if askers is not None:
            askers.add(wanted.worker_id)
            await self._answer(key, {wanted.worker_id})
            return
        askers = self._askers[key] = {wanted.worker_id}
        try:
            sharing = asyncio.ensure_future(scope.share(wanted.digest))
            done, _ = await asyncio.wait({sharing}, timeout=self._ask_again_s / 4)
            if not done:
                await self._answer(key, {wanted.worker_id})
            digest = await sharing
        except StorageError as error:
            await self._answer(key, askers, text=str(error))
        else:
            await self._answer(key, askers, stored_as=digest)
        finally:
            del self._askers[key]

    async def _answer(self, key: _Key, askers: set[str], *, stored_as: str = "", text: str = "") -> None:
        message = BlobReady(*key, ready=bool(stored_as), text=text, stored_as=stored_as)
        for asker in list(askers):
            try:
                await self._bus.publish(worker(asker), message)
            except BusError as error:  # Who is still there asks again.
                _log.info("blob_answer_not_sent", asker=asker, blob=key[2], reason=str(error))


def _lost(name: str, home: str, why: str) -> StorageError:
    return StorageError("BLOB_LOST", f"blob {name} is only on worker {home}, which {why}: start the job again")
