"""Who may do what with functions that are shared: for any set of grants, on a real database."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from qonduit_gateway.api import convert
from qonduit_gateway.api.function_catalog import look_up
from qonduit_gateway.api.provider_changes import Changes
from qonduit_gateway.api.provider_checks import require
from qonduit_gateway.database import function_rows, grant_rows, migrate, provider_rows, user_rows
from qonduit_gateway.database.engine import Database
from qonduit_gateway.functions.model import FunctionName, FunctionSpec, version_digest
from qonduit_gateway.providers.access import Access, Action, Grant, Grantee, GranteeKind, Place, Role
from qonduit_service_kit.errors import ApiError
from sqlalchemy import delete

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sqlalchemy import Connection, Engine

SOLVER = Place("acme", "solver")
PLACES = (SOLVER, Place("acme", "other"), Place("acme"), Place("beta", "solver"), Place("beta"))
GRANTEES = (
    Grantee(GranteeKind.USER, "ada"),
    Grantee(GranteeKind.USER, "grace"),
    Grantee(GranteeKind.GROUP, "chemists"),
    Grantee(GranteeKind.GROUP, "physicists"),
    Grantee(GranteeKind.EVERYONE),
)
HELD_BY_ADA = (GRANTEES[0], GRANTEES[2], GRANTEES[4])
TABLE = {
    "READ": {"see"},
    "RUN": {"see", "run"},
    "TRIAL": {"see", "run"},
    "LOGS": {"see", "logs"},
    "FILES": {"see", "files"},
    "ADMIN": {"see", "run", "logs", "files", "manage"},
}
"""What the documentation says, written down once more."""
OPERATIONS: dict[str, tuple[str, Callable[[Connection], Any]]] = {
    "get": ("see", lambda c: look_up(c, "ada", "acme/solver", "", Action.SEE)),
    "get by alias": ("see", lambda c: look_up(c, "ada", "acme/solver@latest", "", Action.SEE)),
    "run": ("run", lambda c: look_up(c, "ada", "acme/solver", "latest", Action.RUN)),
    "list files of the artifact": ("manage", lambda c: look_up(c, "ada", "acme/solver", "", Action.MANAGE)),
    "use the provider's files": ("files", lambda c: look_up(c, "ada", "acme/solver", "", Action.USE_FILES)),
    "list its jobs": ("logs", lambda c: require(c, "ada", SOLVER, Action.READ_LOGS)),
    "list its grants": ("manage", lambda c: require(c, "ada", SOLVER, Action.MANAGE)),
    "disable": ("manage", lambda c: Changes(c, "ada", 1.0).set_disabled(SOLVER, "broken")),
    "grant": ("manage", lambda c: Changes(c, "ada", 1.0).grant(Grant(SOLVER, GRANTEES[1], Role.READ))),
    "revoke": (
        "manage",
        lambda c: Changes(c, "ada", 1.0).revoke(Grant(SOLVER, Grantee(GranteeKind.EVERYONE), Role.RUN)),
    ),
}
RELAXED = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
grants = st.sets(
    st.builds(Grant, st.sampled_from(PLACES), st.sampled_from(GRANTEES), st.sampled_from(list(Role))), max_size=6
)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """A database with two providers, of which ada is in one of two groups."""
    folder: Path = tmp_path_factory.mktemp("access")
    database = Database(f"sqlite:///{folder / 'gateway.db'}")
    with database.engine.begin() as connection:
        migrate.upgrade(connection)
        for name in ("ada", "grace", "root"):
            user_rows.create(connection, name, administrator=False, token_digest=name, at=1.0)
        for group in ("chemists", "physicists"):
            provider_rows.create_group(connection, group, by="root", at=1.0)
        provider_rows.add_member(connection, "chemists", "ada")
        provider_rows.add_member(connection, "physicists", "grace")
        for provider in ("acme", "beta"):
            provider_rows.create(connection, provider, by="root", at=1.0)
            root = Grant(Place(provider), Grantee(GranteeKind.USER, "root"), Role.ADMIN)
            grant_rows.add(connection, root, by="root", at=1.0)
            for title in ("solver", "other"):
                _store(connection, provider, title)
    yield database.engine
    database.engine.dispose()


def _store(connection: Connection, provider: str, title: str) -> None:
    spec = FunctionSpec(title, "program.py", ("numpy",), {"SECRET": "s"}, "solves")
    name = FunctionName(title, provider=provider)
    function_rows.store(connection, name, spec, version_digest(spec, "a" * 64), ("a" * 64, 10), at=1.0)


def _outcome(connection: Connection, operation: Callable[[Connection], Any]) -> bytes:
    """Do something and undo it; empty when it was allowed, else what the caller is told, as it travels."""
    undone = connection.begin_nested()
    try:
        operation(connection)
    except ApiError as error:
        return error.to_status().SerializeToString()
    else:
        return b""
    finally:
        undone.rollback()


def _reason(told: bytes) -> str:
    return next(
        (word for word in ("ROLE_MISSING", "FUNCTION_NOT_FOUND", "GRANT_NOT_FOUND") if word.encode() in told), ""
    )


def _without(connection: Connection, place: Place) -> None:
    """Take a function out of the database, as if it had never been there."""
    name = FunctionName(place.title, provider=place.provider)
    number = function_rows.function_id_of(connection, name)
    versions, functions = function_rows.function_versions, function_rows.functions
    connection.execute(delete(versions).where(versions.c.function_id == number))
    connection.execute(delete(functions).where(functions.c.function_id == number))


@settings(max_examples=60, suppress_health_check=RELAXED)
@given(given_grants=grants)
def test_what_is_allowed_is_what_the_table_says_and_the_rest_looks_as_if_not_there(
    engine: Engine, given_grants: set[Grant]
) -> None:
    mine = [grant for grant in given_grants if grant.grantee in HELD_BY_ADA and grant.place in {SOLVER, Place("acme")}]
    may = {what for grant in mine for what in TABLE[grant.role.value]}
    with engine.connect() as connection, connection.begin() as transaction:
        for grant in given_grants:
            grant_rows.add(connection, grant, by="root", at=1.0)
        told = {name: _outcome(connection, operation) for name, (_, operation) in OPERATIONS.items()}
        _without(connection, SOLVER)
        absent = {name: _outcome(connection, operation) for name, (_, operation) in OPERATIONS.items()}
        transaction.rollback()
    for name, (needs, _) in OPERATIONS.items():
        if needs in may:
            assert _reason(told[name]) in {"", "GRANT_NOT_FOUND"}, name
        elif may:
            assert _reason(told[name]) == "ROLE_MISSING", name
        else:
            assert _reason(told[name]) == "FUNCTION_NOT_FOUND", name
            assert told[name] == absent[name], name


@settings(max_examples=40, suppress_health_check=RELAXED)
@given(given_grants=grants)
def test_exactly_what_may_be_seen_is_listed(engine: Engine, given_grants: set[Grant]) -> None:
    mine = [grant.place for grant in given_grants if grant.grantee in HELD_BY_ADA]
    everything = [Place(*each) for each in product(("acme", "beta"), ("solver", "other"))]
    seen = {str(place) for place in everything if any(held in {place, Place(place.provider)} for held in mine)}
    with engine.connect() as connection, connection.begin() as transaction:
        for grant in given_grants:
            grant_rows.add(connection, grant, by="root", at=1.0)
        visible = grant_rows.functions_of("ada", own=False, of_providers=True)
        listed = function_rows.page(connection, visible, size=100)
        of_acme = function_rows.page(connection, grant_rows.visible_to("ada", "acme"), size=100)
        providers = provider_rows.page(connection, "ada", size=100)
        transaction.rollback()
    assert {str(version.name) for version, _ in listed} == seen
    assert {str(version.name) for version, _ in of_acme} == {name for name in seen if name.startswith("acme/")}
    assert [each.name for each in providers] == sorted({place.provider for place in mine})


@pytest.mark.parametrize("role", list(Role))
def test_what_a_function_consists_of_is_told_to_its_admins_alone(engine: Engine, role: Role) -> None:
    with engine.connect() as connection:
        version = function_rows.find(connection, FunctionName("solver", provider="acme"))[0]
    told = convert.function(version, Access(frozenset({role})))
    assert (told.spec.title, told.spec.description, told.version) == ("solver", "solves", version.version)
    hidden = (told.spec.entrypoint, list(told.spec.dependencies), dict(told.spec.env_vars), told.artifact_digest)
    assert hidden == (("program.py", ["numpy"], {"SECRET": "s"}, "a" * 64) if role is Role.ADMIN else ("", [], {}, ""))


def test_the_right_to_run_goes_before_the_right_to_try() -> None:
    assert Access(frozenset({Role.TRIAL})).trial
    assert Access(frozenset({Role.TRIAL, Role.LOGS})).trial
    for other in (Role.RUN, Role.ADMIN):
        assert not Access(frozenset({Role.TRIAL, other})).trial
    assert not Access(frozenset({Role.READ})).trial
