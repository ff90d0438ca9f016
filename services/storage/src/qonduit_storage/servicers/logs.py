"""LogService."""

# ruff: noqa: N802 - gRPC names its methods so.

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qonduit_api.internal.v1 import storage_pb2 as pb
from qonduit_api.internal.v1 import storage_pb2_grpc as pb_grpc

from qonduit_storage.errors import RequestError
from qonduit_storage.logs.writing import WriterPiece, Writing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from qonduit_storage.logs.store import LogStore
    from qonduit_storage.servicers.desk import Desk


class LogServicer(pb_grpc.LogServiceServicer):
    """Logs over gRPC."""

    def __init__(self, desk: Desk, logs: LogStore, *, sync_interval_s: float) -> None:
        self._desk = desk
        self._logs = logs
        self._sync_interval_s = sync_interval_s

    async def AppendLog(
        self, request_iterator: AsyncIterator[pb.AppendLogRequest], context: Any
    ) -> AsyncIterator[pb.AppendLogResponse]:
        """Appends pieces. A writer may be silent for as long as its program is."""
        with self._desk.serving(context) as access:
            messages = aiter(request_iterator)
            first = await self._logs.until(anext(messages, None))
            if first is None:
                return
            access.write_log(first.log)
            async with self._logs.open(first.log) as log:
                writing = Writing(self._logs, log, sync_interval_s=self._sync_interval_s)
                try:
                    async for offset in writing.confirmations(_pieces(first, messages)):
                        yield pb.AppendLogResponse(writer_offset=offset)
                finally:
                    self._desk.metrics.stored.labels("log").inc(writing.appended_bytes)

    async def ReadLog(self, request: pb.ReadLogRequest, context: Any) -> AsyncIterator[pb.ReadLogResponse]:
        """Streams a log."""
        with self._desk.serving(context) as access:
            access.read_log(request.log)
            served = self._desk.metrics.served.labels("log")
            if request.tail_lines < 0:
                raise RequestError(
                    "The number of lines is negative; leave it out or make it larger.", field="tail_lines"
                )
            pieces = self._logs.read(request.log, request.offset, follow=request.follow, tail_lines=request.tail_lines)
            async for piece in pieces:
                yield pb.ReadLogResponse(chunk=piece.data, offset=piece.offset)
                served.inc(len(piece.data))

    async def CloseLog(self, request: pb.CloseLogRequest, context: Any) -> pb.CloseLogResponse:
        """Marks a log as complete, unless a newer attempt than the caller's writes it."""
        with self._desk.serving(context) as access:
            access.write_log(request.log)
            async with self._logs.open(request.log) as log:
                await log.close(request.attempt)
            return pb.CloseLogResponse()

    async def DeleteLog(self, request: pb.DeleteLogRequest, context: Any) -> pb.DeleteLogResponse:
        """Deletes a log."""
        with self._desk.serving(context) as access:
            access.collect_garbage()
            async with self._logs.open(request.log) as log:
                await log.delete()
            return pb.DeleteLogResponse()


async def _pieces(first: pb.AppendLogRequest, rest: AsyncIterator[pb.AppendLogRequest]) -> AsyncIterator[WriterPiece]:
    yield WriterPiece(first.attempt, first.writer_offset, first.chunk)
    async for message in rest:
        if message.log != first.log:
            raise RequestError("A stream writes one log. Open another stream for another log.", field="log")
        yield WriterPiece(message.attempt, message.writer_offset, message.chunk)
