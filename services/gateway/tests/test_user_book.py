"""Users, their tokens, and those who are shut out, as they are kept on a real database."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from alembic import command
from gateway_book import NOW, asked_for
from qonduit_gateway.api.callers import token_digest
from qonduit_gateway.api.user_changes import MOST_TOKENS, UserChanges, check_caller
from qonduit_gateway.database import audit_rows, migrate, user_rows
from qonduit_gateway.database.engine import Database
from qonduit_gateway.database.schema import jobs
from qonduit_gateway.database.user_rows import Token
from qonduit_gateway.ledger import UserDisabledError
from qonduit_service_kit.errors import ApiError
from sqlalchemy import select

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway_book import Book
    from qonduit_gateway.database.user_rows import User
    from sqlalchemy import Connection


async def change(database: Database, actor: str, what: Callable[[UserChanges], Any], at: float = NOW + 1) -> Any:
    return await database.write(lambda connection: what(UserChanges(connection, actor, at)))


async def refused(book: Book, actor: str, what: Callable[[UserChanges], Any]) -> ApiError:
    with pytest.raises(ApiError) as caught:
        await change(book.database, actor, what)
    return caught.value


async def tokens(book: Book, name: str = "ada") -> list[Token]:
    return await book.database.read(lambda connection: user_rows.tokens_of(connection, name))


async def whose(book: Book, token: str) -> User | None:
    return await book.database.read(lambda connection: user_rows.by_token(connection, token_digest(token)))


async def bootstrap(book: Book, token: str, name: str = "root") -> None:
    digest = token_digest(token)
    await book.database.write(lambda connection: user_rows.bootstrap(connection, name, digest, at=NOW))


async def test_a_user_has_several_tokens_each_good_until_it_is_withdrawn(book: Book) -> None:
    made = await change(book.database, "ada", lambda changes: changes.make_token("ada", "laptop", replace=False))
    user = await whose(book, made.text)
    assert user is not None
    assert user.name == "ada"
    first, second = await tokens(book)
    assert (first.label, second.label, second) == ("created", "laptop", made.kept)
    assert second.token_id == token_digest(made.text)[:8]
    await change(book.database, "ada", lambda changes: changes.withdraw_token("ada", second.token_id))
    assert await whose(book, made.text) is None
    assert await tokens(book) == [first]


async def test_a_replacement_leaves_no_other_but_the_bootstrap_token(book: Book) -> None:
    await bootstrap(book, "in the file")
    more = [
        await change(book.database, "root", lambda changes: changes.make_token("root", "", replace=False))
        for _ in range(2)
    ]
    made = await change(book.database, "root", lambda changes: changes.make_token("root", "", replace=True))
    assert (made.withdrawn, made.bootstrap_stays) == (2, True)
    assert [await whose(book, each.text) for each in more] == [None, None]
    assert {token.label for token in await tokens(book, "root")} == {"bootstrap", ""}
    made = await change(book.database, "root", lambda changes: changes.make_token("ada", "", replace=True))
    assert (made.withdrawn, made.bootstrap_stays) == (1, False)
    assert await tokens(book) == [made.kept]


async def test_what_may_not_be_withdrawn_says_what_to_do(book: Book) -> None:
    await bootstrap(book, "in the file")
    (mine,) = await tokens(book)
    (kept,) = await tokens(book, "root")
    last = await refused(book, "ada", lambda changes: changes.withdraw_token("ada", mine.token_id))
    assert (last.reason, "another one first" in last.text) == ("LAST_TOKEN", True)
    fixed = await refused(book, "root", lambda changes: changes.withdraw_token("root", kept.token_id))
    assert (fixed.reason, "Put a new token into that file" in fixed.text) == ("BOOTSTRAP_TOKEN", True)
    for wrong in ("", "0" * 8, mine.digest, kept.token_id):
        unknown = await refused(book, "root", lambda changes, wrong=wrong: changes.withdraw_token("ada", wrong))
        assert (unknown.reason, "`qonduit users tokens ada`" in unknown.text) == ("TOKEN_NOT_FOUND", True)
    nobody = await refused(book, "root", lambda changes: changes.withdraw_token("eve", mine.token_id))
    assert nobody.reason == "USER_NOT_FOUND"
    await change(book.database, "root", lambda changes: changes.withdraw_token("ada", mine.token_id))
    assert await tokens(book) == []


async def test_of_two_gateways_that_withdraw_the_last_two_one_is_refused(book: Book, database_url: str) -> None:
    await change(book.database, "ada", lambda changes: changes.make_token("ada", "", replace=False))
    ids = [token.token_id for token in await tokens(book)]
    other = Database(database_url, busy_timeout_s=60)
    outcomes = await asyncio.gather(
        *(
            change(database, "ada", lambda changes, token_id=token_id: changes.withdraw_token("ada", token_id))
            for database, token_id in zip((book.database, other), ids, strict=True)
        ),
        return_exceptions=True,
    )
    await other.close()
    assert sorted(getattr(outcome, "reason", "done") for outcome in outcomes) == ["LAST_TOKEN", "done"]
    assert len(await tokens(book)) == 1


@pytest.mark.parametrize("label", ["bootstrap", "created", "x" * 65, "a\nb", "a\0b"])
async def test_labels_that_would_mislead_are_refused(book: Book, label: str) -> None:
    wrong = await refused(book, "ada", lambda changes: changes.make_token("ada", label, replace=False))
    assert (wrong.reason, list(wrong.violations)) == ("INVALID_LABEL", ["label"])


async def test_tokens_of_one_user_are_bounded_and_a_replacement_is_always_possible(book: Book) -> None:
    def fill(connection: Connection) -> None:
        for number in range(MOST_TOKENS - 1):
            user_rows.add_token(connection, "ada", Token(f"{number:064}", "", NOW))

    await book.database.write(fill)
    full = await refused(book, "ada", lambda changes: changes.make_token("ada", "", replace=False))
    assert (full.reason, "Withdraw some first" in full.text) == ("TOKEN_LIMIT", True)
    made = await change(book.database, "ada", lambda changes: changes.make_token("ada", "", replace=True))
    assert made.withdrawn == MOST_TOKENS


async def test_a_token_that_was_withdrawn_makes_no_other_though_its_call_was_let_in(book: Book) -> None:
    made = await change(book.database, "ada", lambda changes: changes.make_token("ada", "", replace=False))

    async def reason(token: str) -> str:
        try:
            await book.database.write(lambda connection: check_caller(connection, "ada", token_digest(token)))
        except ApiError as error:
            return error.reason
        return ""

    assert await reason(made.text) == ""
    await change(book.database, "root", lambda changes: changes.disable("ada", ""))
    assert await reason(made.text) == "USER_DISABLED"
    await change(book.database, "root", lambda changes: changes.enable("ada"))
    await change(book.database, "root", lambda changes: changes.withdraw_token("ada", made.kept.token_id))
    assert await reason(made.text) == "TOKEN_INVALID"


async def test_a_new_token_in_the_file_ends_the_old_one_and_lets_its_user_in(book: Book) -> None:
    await bootstrap(book, "old")
    made = await change(book.database, "root", lambda changes: changes.make_token("root", "", replace=False))
    await change(book.database, "ada", lambda changes: changes.disable("root", "by mistake"))
    # Somebody puts a token into the file that was made by a call: it is the file's from then on.
    await bootstrap(book, made.text)
    user = await whose(book, made.text)
    assert user is not None
    assert (user.name, user.administrator, user.disabled_text) == ("root", True, None)
    assert await whose(book, "old") is None
    assert [token.label for token in await tokens(book, "root")] == ["bootstrap"]


async def test_a_user_who_is_disabled_gets_no_job_accepted(book: Book) -> None:
    job_id = await book.job()
    submission = await book.submission()
    user, active = await change(book.database, "root", lambda changes: changes.disable("ada", "left the lab"))
    assert (user.disabled_text, active) == ("left the lab", [job_id])
    with pytest.raises(UserDisabledError, match="left the lab"):
        await book.ledger.submit(asked_for(submission), None)
    again, _ = await change(book.database, "root", lambda changes: changes.disable("ada", ""))
    assert again.disabled_text == ""
    with pytest.raises(UserDisabledError):
        await book.ledger.submit(asked_for(submission), None)
    assert (await change(book.database, "root", lambda changes: changes.enable("ada"))).disabled_text is None
    assert (await book.ledger.submit(asked_for(submission), None))[1]


async def test_whoever_disables_is_told_every_job_that_was_accepted(book: Book, database_url: str) -> None:
    submissions = [await book.submission() for _ in range(20)]
    other = Database(database_url, busy_timeout_s=60)
    *answers, (_, active) = await asyncio.gather(
        *(book.ledger.submit(asked_for(each), None) for each in submissions),
        change(other, "root", lambda changes: changes.disable("ada", "")),
        return_exceptions=True,
    )
    await other.close()
    kept = await book.database.read(lambda connection: set(connection.execute(select(jobs.c.job_id)).scalars()))
    assert set(active) == kept
    assert len(kept) == sum(not isinstance(answer, UserDisabledError) for answer in answers)


async def test_who_may_not_be_disabled_and_reasons_that_are_too_long(book: Book) -> None:
    for actor, name, text, reason in (
        ("ada", "ada", "", "OWN_USER"),
        ("root", "eve", "", "USER_NOT_FOUND"),
        ("root", "ada", "x" * 501, "INVALID_TEXT"),
    ):
        wrong = await refused(book, actor, lambda changes, name=name, text=text: changes.disable(name, text))
        assert wrong.reason == reason
    assert (await refused(book, "root", lambda changes: changes.enable("eve"))).reason == "USER_NOT_FOUND"


async def test_each_change_is_audited_and_a_refused_one_not_at_all(book: Book) -> None:
    await change(book.database, "root", lambda changes: changes.create("grace", administrator=True))
    (first,) = await tokens(book)
    made = await change(book.database, "ada", lambda changes: changes.make_token("ada", "", replace=True))
    await refused(book, "ada", lambda changes: changes.withdraw_token("ada", made.kept.token_id))
    await change(book.database, "root", lambda changes: changes.disable("ada", "left"))
    await change(book.database, "root", lambda changes: changes.enable("ada"))
    found = await book.database.read(lambda connection: audit_rows.page(connection, audit_rows.OF_PEOPLE, size=100))
    assert [(entry.actor, entry.action, entry.subject, entry.detail) for entry in reversed(found)] == [
        ("root", "user.create", "user grace", "administrator"),
        ("ada", "token.withdraw", "user ada", first.token_id),
        ("ada", "token.create", "user ada", made.kept.token_id),
        ("root", "user.disable", "user ada", "left"),
        ("root", "user.enable", "user ada", ""),
    ]


async def test_the_tables_can_go_back_and_forth(book: Book) -> None:
    def there_and_back(connection: Connection) -> None:
        settings = migrate.config()
        settings.attributes["connection"] = connection
        command.downgrade(settings, "0009")
        command.upgrade(settings, "head")

    (before,) = await tokens(book)
    await book.database.write(there_and_back, timeout_s=60)
    assert await tokens(book) == [before]
