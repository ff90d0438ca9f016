from __future__ import annotations

import math
from dataclasses import fields, is_dataclass

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qonduit_service_kit import messages
from qonduit_service_kit.codec import DecodeError, decode, decode_wire_type, encode, wire_type
from qonduit_service_kit.messages import JobEvent, SchedulerHello, Stage, StageUsage, WorkerHeartbeat, wire_name

MESSAGE_TYPES = sorted(messages._names, key=wire_name)

st.register_type_strategy(int, st.integers(-(2**63), 2**63 - 1))
st.register_type_strategy(float, st.floats(allow_nan=False))


@pytest.mark.parametrize("body_type", MESSAGE_TYPES, ids=lambda body_type: body_type.__name__)
@settings(max_examples=10)
@given(data=st.data())
def test_every_message_comes_back_as_it_was_sent(body_type: type, data: st.DataObject) -> None:
    body = data.draw(st.from_type(body_type))
    name, version = wire_name(body_type)
    assert decode(name, version, encode(body)) == body
    assert decode_wire_type(wire_type(body), encode(body)) == body


@pytest.mark.parametrize("body_type", MESSAGE_TYPES, ids=lambda body_type: body_type.__name__)
def test_every_message_is_a_frozen_slotted_dataclass(body_type: type) -> None:
    assert is_dataclass(body_type)
    assert body_type.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert set(body_type.__slots__) == {field.name for field in fields(body_type)}  # type: ignore[attr-defined]


def test_fields_of_a_newer_sender_are_ignored() -> None:
    newer = msgpack.packb({"scheduler_id": "s", "added_later": [1, 2]})
    assert decode("gateway.scheduler_hello", 1, newer) == SchedulerHello("s")


def test_fields_of_an_older_sender_take_their_defaults() -> None:
    older = msgpack.packb(
        {
            "worker_id": "w",
            "incarnation": "i",
            "sequence": 1,
            "capacity": {"cpu_millis": 1000, "mem_bytes": 5},
            "free": {"cpu_millis": 1000, "mem_bytes": 5},
        }
    )
    heartbeat = decode("scheduler.worker_heartbeat", 1, older)
    assert isinstance(heartbeat, WorkerHeartbeat)
    assert heartbeat.leases == ()
    assert heartbeat.capacity.gpus == 0


def test_a_whole_number_is_read_as_the_float_it_stands_for() -> None:
    sent = {"job_id": "j", "attempt": 1, "sequence": 0, "at": 5, "worker_id": "w", "kind": "USAGE"}
    event = decode("gateway.job_event", 1, msgpack.packb(sent | {"usage": [{"stage": "MAPPING", "cpu_s": 2}]}))
    assert isinstance(event, JobEvent)
    assert isinstance(event.at, float)
    assert event.usage == (StageUsage(Stage.MAPPING, cpu_s=2.0),)
    assert math.isclose(event.usage[0].cpu_s, 2)


@pytest.mark.parametrize(
    ("wire", "body"),
    [
        ("gateway.scheduler_hello/1", b""),
        ("gateway.scheduler_hello/1", b"\xc1"),
        ("gateway.scheduler_hello/1", msgpack.packb([1])),
        ("gateway.scheduler_hello/1", msgpack.packb({})),
        ("gateway.scheduler_hello/2", msgpack.packb({"scheduler_id": "s"})),
        ("gateway.scheduler_hello/x", msgpack.packb({"scheduler_id": "s"})),
        ("gateway.job_event/1", msgpack.packb({"kind": "NEVER_HEARD"})),
        ("", b""),
        (None, b""),
    ],
)
def test_what_is_no_message_is_refused(wire: str | None, body: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_wire_type(wire, body)


def test_only_registered_types_are_sent() -> None:
    with pytest.raises(KeyError):
        encode(object())
