from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, cast

from qonduit_qpu_broker.ibm.following import Follower
from qonduit_qpu_broker.ibm.rest import Reply

if TYPE_CHECKING:
    from qonduit_qpu_broker.ibm.instance import Instance


class _Shifting:
    """An instance whose list has shifted between two pages: the second holds nothing new, and never will."""

    class account:  # noqa: N801 -- as an instance has it.
        name = "lab"

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def call(self, _method: str, path: str, **options: Any) -> Reply:
        self.asked.append(path)
        if path == "/jobs":
            listed = [{"id": f"d{number}", "state": {"status": "Queued"}} for number in range(2)]
            document: dict[str, Any] = {"jobs": listed, "count": 3}
        else:
            document = {"id": path.removeprefix("/jobs/"), "state": {"status": "Completed"}}
        await asyncio.sleep(0)
        return Reply(json.dumps(document | {"asked": str(options)}).encode())


async def test_a_job_that_a_shifted_list_does_not_hold_is_asked_for_itself() -> None:
    instance = _Shifting()
    follower = Follower(cast("Instance", instance), 0.01, 1.0)
    await follower.start()

    async def started(_at: float) -> None:
        raise AssertionError("it was never seen running")

    ended = await asyncio.wait_for(follower.until_final("d2", started, asyncio.Event()), 60)
    await follower.stop()
    assert ended["state"]["status"] == "Completed"
    assert instance.asked[:3] == ["/jobs", "/jobs", "/jobs/d2"]
