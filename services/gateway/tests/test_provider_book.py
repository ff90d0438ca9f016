"""Providers, grants, groups, audit entries, and jobs of providers' functions, as they are kept on a real database."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from alembic import command
from gateway_book import KEY, NOW, asked_for, event
from qonduit_gateway.api.provider_changes import Changes
from qonduit_gateway.database import (
    audit_rows,
    function_rows,
    grant_rows,
    job_rows,
    migrate,
    outbox_rows,
    provider_rows,
)
from qonduit_gateway.database.engine import Database
from qonduit_gateway.database.idempotency_rows import Claim
from qonduit_gateway.database.outbox_rows import Lane
from qonduit_gateway.functions.model import FunctionName, FunctionSpec, version_digest
from qonduit_gateway.outgoing import DELETE_LOG
from qonduit_gateway.providers.access import Action, Grant, Grantee, GranteeKind, Place, Role
from qonduit_service_kit.errors import ApiError
from qonduit_service_kit.messages import EventKind
from qonduit_service_kit.tickets import TicketSigner
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway_book import Book
    from qonduit_gateway.jobs.model import Submission
    from sqlalchemy import Connection

ACME = Place("acme")
SOLVER = Place("acme", "solver")
GRACE = Grantee(GranteeKind.USER, "grace")
CHEMISTS = Grantee(GranteeKind.GROUP, "chemists")
EVERYONE = Grantee(GranteeKind.EVERYONE)


async def share(book: Book) -> None:
    """Have ada administer the provider acme, that has the function solver."""
    await book.user("root")
    await book.user("grace")
    await change(book, "root", lambda changes: changes.create_provider("acme", ["ada"]))
    await change(book, "root", lambda changes: changes.create_group("chemists"))
    await publish(book)


async def change(book: Book, actor: str, what: Callable[[Changes], Any]) -> Any:
    book.now += 1
    return await book.database.write(lambda connection: what(Changes(connection, actor, book.now)))


async def refused(book: Book, actor: str, what: Callable[[Changes], Any]) -> str:
    with pytest.raises(ApiError) as caught:
        await change(book, actor, what)
    return caught.value.reason


async def publish(book: Book, title: str = "solver") -> None:
    spec = FunctionSpec(title, "program.py")
    name = FunctionName(title, provider="acme")
    await book.database.write(
        lambda connection: function_rows.store(
            connection, name, spec, version_digest(spec, "a" * 64), ("a" * 64, 10), at=book.now
        )
    )


async def audited(book: Book, place: Place = ACME) -> list[tuple[str, str, str, str]]:
    entries = await book.database.read(lambda connection: audit_rows.page(connection, place, size=100))
    return [(entry.actor, entry.action, entry.subject, entry.detail) for entry in reversed(entries)]


async def may(book: Book, user: str, action: Action, place: Place = SOLVER) -> bool:
    return (await book.database.read(lambda c: grant_rows.access_of(c, user, place))).allows(action)


async def of_solver(book: Book, *, trial: bool = False) -> Submission:
    submission = await book.submission("grace", title="solver")
    return replace(submission, program=replace(submission.program, provider="acme"), trial=trial)


async def test_grants_hold_from_the_next_look_on_and_so_do_revocations_and_groups(book: Book) -> None:
    await share(book)
    assert not await may(book, "grace", Action.SEE)
    for grant in (Grant(SOLVER, GRACE, Role.RUN), Grant(ACME, CHEMISTS, Role.LOGS), Grant(SOLVER, EVERYONE, Role.READ)):
        assert (await change(book, "ada", lambda changes, grant=grant: changes.grant(grant)))[1]
        assert not (await change(book, "ada", lambda changes, grant=grant: changes.grant(grant)))[1]
    assert await may(book, "grace", Action.RUN)
    assert not await may(book, "grace", Action.READ_LOGS)
    await change(book, "root", lambda changes: changes.add_member("chemists", "grace"))
    assert await may(book, "grace", Action.READ_LOGS)
    await change(book, "root", lambda changes: changes.remove_member("chemists", "grace"))
    await change(book, "ada", lambda changes: changes.revoke(Grant(SOLVER, GRACE, Role.RUN)))
    assert not await may(book, "grace", Action.READ_LOGS)
    assert not await may(book, "grace", Action.RUN)
    assert await may(book, "grace", Action.SEE)


async def test_each_change_is_audited_once_and_a_refused_one_not_at_all(book: Book) -> None:
    await share(book)
    grant = Grant(SOLVER, GRACE, Role.RUN)
    for _ in range(2):
        await change(book, "ada", lambda changes: changes.grant(grant))
        await change(book, "root", lambda changes: changes.add_member("chemists", "grace"))
    await change(book, "ada", lambda changes: changes.set_disabled(SOLVER, "Use acme/better."))
    await change(book, "ada", lambda changes: changes.set_disabled(SOLVER, None))
    await change(book, "ada", lambda changes: changes.revoke(grant))
    assert await refused(book, "ada", lambda changes: changes.revoke(grant)) == "GRANT_NOT_FOUND"
    assert await refused(book, "grace", lambda changes: changes.grant(grant)) == "FUNCTION_NOT_FOUND"
    assert await audited(book) == [
        ("root", "provider.create", "", ""),
        ("root", "grant.add", "user ada", "ADMIN"),
        ("ada", "grant.add", "user grace", "RUN"),
        ("ada", "function.disable", "", "Use acme/better."),
        ("ada", "function.enable", "", ""),
        ("ada", "grant.remove", "user grace", "RUN"),
    ]
    assert len(await audited(book, SOLVER)) == 4
    assert await audited(book, audit_rows.OF_PEOPLE) == [
        ("root", "group.create", "group chemists", ""),
        ("root", "group.add", "user grace", "group chemists"),
    ]


async def test_a_provider_always_has_somebody_who_administers_it(book: Book) -> None:
    await share(book)
    admin = Grant(ACME, Grantee(GranteeKind.USER, "ada"), Role.ADMIN)
    assert await refused(book, "ada", lambda changes: changes.revoke(admin)) == "LAST_ADMIN"
    assert await may(book, "ada", Action.MANAGE)
    await change(book, "ada", lambda changes: changes.grant(Grant(ACME, GRACE, Role.ADMIN)))
    await change(book, "grace", lambda changes: changes.revoke(admin))
    assert not await may(book, "ada", Action.SEE)
    # Whoever administers one function does not administer the others, nor the provider.
    await change(book, "grace", lambda changes: changes.grant(replace(admin, place=SOLVER)))
    await publish(book, "other")
    for place in (ACME, Place("acme", "other")):
        grant = Grant(place, EVERYONE, Role.RUN)
        reason = await refused(book, "ada", lambda changes, grant=grant: changes.grant(grant))
        assert reason == ("ROLE_MISSING" if place == ACME else "FUNCTION_NOT_FOUND")


async def test_two_admins_who_revoke_each_other_at_once_leave_one(book: Book) -> None:
    await share(book)
    admins = {name: Grant(ACME, Grantee(GranteeKind.USER, name), Role.ADMIN) for name in ("ada", "grace")}
    for _ in range(5):
        for name, other in (("ada", "grace"), ("grace", "ada")):
            if await may(book, name, Action.MANAGE, ACME):
                await change(book, name, lambda changes, grant=admins[other]: changes.grant(grant))
        ended = await asyncio.gather(
            change(book, "ada", lambda changes: changes.revoke(admins["grace"])),
            change(book, "grace", lambda changes: changes.revoke(admins["ada"])),
            return_exceptions=True,
        )
        assert sorted(type(end).__name__ for end in ended) == ["ApiError", "NoneType"]
        assert await book.database.read(lambda connection: grant_rows.admins_of_all(connection, "acme")) == 1


async def test_what_can_not_be_is_refused_with_its_reason(book: Book) -> None:
    await share(book)
    unknown = Grantee(GranteeKind.USER, "nobody")
    cases: list[tuple[str, Callable[[Changes], Any], str]] = [
        ("root", lambda changes: changes.create_provider("acme", ["ada"]), "PROVIDER_EXISTS"),
        ("root", lambda changes: changes.create_provider("beta", []), "INVALID_PROVIDER"),
        ("root", lambda changes: changes.create_provider("beta", ["nobody"]), "USER_NOT_FOUND"),
        ("root", lambda changes: changes.create_group("chemists"), "GROUP_EXISTS"),
        ("root", lambda changes: changes.add_member("chemists", "nobody"), "USER_NOT_FOUND"),
        ("root", lambda changes: changes.add_member("nobodies", "ada"), "GROUP_NOT_FOUND"),
        ("root", lambda changes: changes.remove_member("chemists", "ada"), "MEMBER_NOT_FOUND"),
        ("ada", lambda changes: changes.grant(Grant(SOLVER, unknown, Role.RUN)), "USER_NOT_FOUND"),
        ("ada", lambda changes: changes.grant(Grant(Place("acme", "solvr"), GRACE, Role.RUN)), "FUNCTION_NOT_FOUND"),
        ("ada", lambda changes: changes.grant(Grant(Place("beta"), GRACE, Role.RUN)), "PROVIDER_NOT_FOUND"),
    ]
    cases += [
        ("root", lambda changes, name=name: changes.create_provider(name, ["ada"]), "INVALID_PROVIDER")
        for name in ("", ".", "..", "a/b", "a b", "a" * 65, "é")
    ]
    for actor, what, reason in cases:
        assert await refused(book, actor, what) == reason


async def test_grants_and_audit_entries_come_in_pages(book: Book) -> None:
    await share(book)
    for role in Role:
        await change(book, "ada", lambda changes, role=role: changes.grant(Grant(SOLVER, GRACE, role)))
    listed: list[tuple[str, str, str, str]] = []

    def next_page(connection: Connection) -> list[grant_rows.KeptGrant]:
        return grant_rows.page(connection, ACME, size=2, after=listed[-1] if listed else None)

    while page := await book.database.read(next_page):
        listed += [kept.key for kept in page]
    assert listed == sorted(listed)
    assert len(listed) == len(set(listed)) == 1 + len(Role)
    newest = await book.database.read(lambda connection: audit_rows.page(connection, ACME, size=2))
    older = await book.database.read(
        lambda connection: audit_rows.page(connection, ACME, size=100, before=newest[-1].number)
    )
    assert [entry.number for entry in [*newest, *older]] == sorted((e.number for e in [*newest, *older]), reverse=True)
    assert len(newest) + len(older) == 2 + len(Role)


async def test_a_function_is_one_users_or_one_providers(book: Book) -> None:
    await share(book)
    await book.submission("ada", title="solver")  # The same title is another function.
    versions = [
        await book.database.read(lambda connection, name=name: function_rows.find(connection, name))
        for name in (FunctionName("solver", owner="ada"), FunctionName("solver", provider="acme"))
    ]
    assert [(found[0].name.owner, found[0].name.provider) for found in versions] == [("ada", ""), ("", "acme")]
    for owner, provider in (("'ada'", "'acme'"), ("NULL", "NULL")):
        statement = f"INSERT INTO functions (owner, provider, title, updated_at) VALUES ({owner}, {provider}, 'x', 1)"  # noqa: S608
        with pytest.raises(IntegrityError):
            await book.database.write(lambda connection, wrong=statement: connection.execute(text(wrong)))


async def test_a_job_of_a_providers_function_has_spaces_and_a_log_of_its_own(book: Book) -> None:
    await share(book)
    submission = await of_solver(book, trial=True)
    await book.ledger.submit(asked_for(submission), None)
    spec = (await book.outbox())[0].spec
    assert (spec.provider, spec.trial, spec.user) == ("acme", True, "grace")
    assert (spec.space, spec.provider_space) == ("functions/acme/solver/grace", "providers/acme/solver")
    ticket = TicketSigner(KEY).verify(spec.storage_ticket)
    assert (ticket.read_space, ticket.write_space) == (spec.space, spec.space)
    assert (ticket.provider_space, ticket.log) == (spec.provider_space, submission.job_id)
    assert ticket.provider_log == f"{submission.job_id}.provider"
    await book.ledger.apply(event(submission.job_id, 0, EventKind.FINISHED))
    await book.ledger.delete(submission.job_id)
    rows = await book.database.read(lambda connection: outbox_rows.waiting(connection, Lane.LOG, limit=9))
    logs = [submission.job_id, ticket.provider_log]
    assert [(row.type_name, row.body.decode()) for _, row in rows] == [
        *(("", log) for log in logs),
        *((DELETE_LOG, log) for log in logs),
    ]
    assert len({row.message_id for _, row in rows}) == 4


async def test_a_job_of_a_users_own_function_is_as_before(book: Book) -> None:
    await share(book)
    await book.job()
    spec = (await book.outbox())[0].spec
    assert (spec.provider, spec.trial, spec.space, spec.provider_space) == ("", False, "", "")
    ticket = TicketSigner(KEY).verify(spec.storage_ticket)
    assert (ticket.read_space, ticket.provider_space, ticket.provider_log) == ("users/ada", "", "")


async def test_jobs_are_listed_by_whose_function_they_run(book: Book) -> None:
    await share(book)
    own = await book.submission("grace", title="solver")
    provided = await of_solver(book)
    for submission in (own, provided):
        await book.ledger.submit(asked_for(submission), None)

    async def listed(wanted: job_rows.Wanted) -> list[str]:
        return [job.job_id for job in await book.database.read(lambda c: job_rows.page(c, wanted, size=10))]

    assert await listed(job_rows.Wanted("grace", "solver")) == [own.job_id]
    assert await listed(job_rows.Wanted("grace", "solver", "acme")) == [provided.job_id]
    assert await listed(job_rows.Wanted(None, "solver", "acme")) == [provided.job_id]
    assert set(await listed(job_rows.Wanted("grace"))) == {own.job_id, provided.job_id}
    assert await listed(job_rows.Wanted("ada")) == []


async def test_a_request_that_was_accepted_is_found_again_by_its_key(book: Book) -> None:
    await share(book)
    submission = await of_solver(book)
    claim = Claim("grace", "key", "hash", submission.job_id)
    assert await book.ledger.accepted(claim) is None
    await book.ledger.submit(asked_for(submission), claim)
    found = await book.ledger.accepted(replace(claim, job_id="another"))
    assert found is not None
    assert (found.job_id, found.submission.program.provider) == (submission.job_id, "acme")
    assert await book.ledger.accepted(replace(claim, request_hash="other")) is None
    assert await book.ledger.accepted(replace(claim, owner="ada")) is None


_BEFORE = """
INSERT INTO users (name, administrator, created_at) VALUES ('ada', false, 1);
INSERT INTO functions (function_id, owner, title, current_version_id, updated_at) VALUES (7, 'ada', 'f', 9, 1);
INSERT INTO function_versions (version_id, function_id, version, entrypoint, dependencies, environment, description,
    version_label, artifact_digest, artifact_bytes, created_at)
    VALUES (9, 7, 'v', 'p.py', '[]', '{}', '', '', 'a', 1, 1);
INSERT INTO function_aliases (function_id, alias, version_id) VALUES (7, 'stable', 9);
INSERT INTO jobs (job_id, owner, version_id, function_title, arguments_digest, cpu_millis, mem_bytes, gpus,
    time_limit_s, priority, created_at, state, stage, reason, error_text, attempt, revision, last_sequence, worker_id,
    queued_at, result_digest, result_bytes, tell_again_at, told_count)
    VALUES ('j', 'ada', 9, 'f', 'c', 1, 1, 0, 1, 0, 1, 'QUEUED', 'NONE', 'NONE', '', 1, 1, -1, '', 1, '', 0, 1, 1);
"""


async def test_what_was_kept_before_there_were_providers_is_kept(database_url: str) -> None:
    database = Database(database_url, busy_timeout_s=60)

    def migrated(how: Callable[..., None], revision: str) -> Callable[[Connection], None]:
        def work(connection: Connection) -> None:
            settings = migrate.config()
            settings.attributes["connection"] = connection
            how(settings, revision)

        return work

    def looked_at(connection: Connection) -> tuple[Any, ...]:
        found = function_rows.find_by_alias(connection, FunctionName("f", owner="ada"), "stable")
        job = job_rows.get(connection, "j")
        assert found is not None
        assert job is not None
        asked = job.submission
        return found.version, found.aliases, asked.program.version, asked.program.provider, asked.trial

    await database.write(migrated(command.upgrade, "0006"))
    for statement in filter(str.strip, _BEFORE.split(";")):
        await database.write(lambda connection, one=statement: connection.execute(text(one)))
    await database.write(migrate.upgrade)
    expected = ("v", ("latest", "stable"), "v", "", False)
    assert await database.read(looked_at) == expected
    with pytest.raises(IntegrityError):  # What refers to the rows still does.
        await database.write(lambda connection: connection.execute(text("DELETE FROM functions")))
    await database.write(migrated(command.downgrade, "0006"))
    await database.write(migrate.upgrade)
    assert await database.read(looked_at) == expected
    await database.write(lambda connection: provider_rows.create(connection, "acme", by="ada", at=NOW))
    await database.close()
