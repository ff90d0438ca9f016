from __future__ import annotations

import stat
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import jwt
import pytest
from qonduit_service_kit.tickets import Ticket, TicketError, TicketSigner, load_or_create_key

if TYPE_CHECKING:
    from pathlib import Path

KEY = b"k" * 32


def test_a_ticket_comes_back_as_it_was_signed() -> None:
    signer = TicketSigner(KEY)
    ticket = Ticket("ann", time.time() + 60, job_id="j", read_space="ann", blobs="rw", log="j/1")
    assert signer.verify(signer.sign(ticket)) == ticket
    assert "ann" not in str(signer.sign(Ticket.lasting("ann", 60))).split(".")[2]


def test_an_ended_ticket_is_refused() -> None:
    signer = TicketSigner(KEY)
    with pytest.raises(TicketError, match="expired"):
        signer.verify(signer.sign(Ticket("ann", time.time() - 1)))


@pytest.mark.parametrize(
    "forged",
    [
        "",
        "no.ticket.at-all",
        jwt.encode({"user": "eve", "exp": 2**40}, "another key, that is long enough", algorithm="HS256"),
        jwt.encode({"user": "eve", "exp": 2**40}, None, algorithm="none"),  # type: ignore[arg-type]
        jwt.encode({"user": "eve"}, KEY, algorithm="HS256"),
        jwt.encode({"exp": 2**40}, KEY, algorithm="HS256"),
    ],
    ids=["empty", "text", "other key", "unsigned", "for ever", "nobody's"],
)
def test_what_was_not_signed_here_is_refused(forged: str) -> None:
    with pytest.raises(TicketError, match="no ticket"):
        TicketSigner(KEY).verify(forged)


def test_a_changed_ticket_is_refused() -> None:
    signer = TicketSigner(KEY)
    head, _, tail = signer.sign(Ticket.lasting("ann", 60)).split(".")
    other = signer.sign(Ticket.lasting("eve", 60)).split(".")[1]
    with pytest.raises(TicketError):
        signer.verify(f"{head}.{other}.{tail}")


def test_rights_a_newer_version_adds_are_ignored() -> None:
    token = jwt.encode({"user": "ann", "exp": 2**40, "added_later": "x"}, KEY, algorithm="HS256")
    assert TicketSigner(KEY).verify(token).user == "ann"


def test_a_short_key_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        TicketSigner(b"short")


def test_services_that_race_for_the_key_agree_on_one(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "internal.key"
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(lambda _: load_or_create_key(path), range(32)))
    assert len(keys) == 1
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["internal.key"]


def test_a_file_without_a_key_is_named(tmp_path: Path) -> None:
    path = tmp_path / "internal.key"
    path.write_text("not a key")
    with pytest.raises(ValueError, match=r"internal\.key holds no key"):
        load_or_create_key(path)


def test_a_service_that_speaks_for_no_user_is_believed() -> None:
    signer = TicketSigner(b"k" * 32)
    ticket = Ticket.lasting("", 60, service="gateway")
    assert signer.verify(signer.sign(ticket)) == ticket
