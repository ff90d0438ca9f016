"""The ledger's tables."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

VERSION = 3

_TABLES = """
CREATE TABLE programs (
    job_id TEXT PRIMARY KEY,
    attempt INTEGER NOT NULL,
    user TEXT NOT NULL,
    ended INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE qpu_sessions (
    session_id TEXT PRIMARY KEY,
    job_id TEXT NOT NULL,
    user TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    caller TEXT NOT NULL,
    call_number INTEGER NOT NULL,
    digest TEXT NOT NULL,
    mode TEXT NOT NULL,
    backend TEXT NOT NULL,
    instance TEXT NOT NULL,
    max_ttl_s INTEGER NOT NULL,
    accepting INTEGER NOT NULL DEFAULT 1,
    created_at REAL NOT NULL,
    activated_at REAL,
    closed_at REAL,
    UNIQUE (job_id, attempt, caller, call_number, digest)
);
CREATE TABLE qpu_jobs (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    qpu_job_id TEXT NOT NULL UNIQUE,
    job_id TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    user TEXT NOT NULL,
    caller TEXT NOT NULL,
    call_number INTEGER NOT NULL,
    digest TEXT NOT NULL,
    reply_exchange TEXT NOT NULL,
    reply_key TEXT NOT NULL,
    superseded INTEGER NOT NULL DEFAULT 0,
    program TEXT NOT NULL,
    backend TEXT NOT NULL,
    session_id TEXT NOT NULL DEFAULT '',
    tags TEXT NOT NULL DEFAULT '[]',
    private INTEGER NOT NULL DEFAULT 0,
    cost_s INTEGER NOT NULL DEFAULT 0,
    api_version TEXT NOT NULL DEFAULT '',
    body BLOB,
    body_digest TEXT NOT NULL,
    state TEXT NOT NULL,
    created_at REAL NOT NULL,
    running_at REAL,
    finished_at REAL,
    reason TEXT NOT NULL DEFAULT '',
    reason_code INTEGER NOT NULL DEFAULT 0,
    result BLOB,
    result_digest TEXT NOT NULL DEFAULT '',
    qpu_s REAL,
    cancel_request_id TEXT NOT NULL DEFAULT '',
    delete_request_id TEXT NOT NULL DEFAULT ''
);
CREATE UNIQUE INDEX one_job_a_call ON qpu_jobs (job_id, attempt, caller, call_number, digest)
    WHERE superseded = 0;
CREATE INDEX jobs_of_program ON qpu_jobs (job_id, position);
CREATE INDEX jobs_of_session ON qpu_jobs (session_id) WHERE session_id != '';
CREATE INDEX unfinished_jobs ON qpu_jobs (position) WHERE finished_at IS NULL;
CREATE TABLE transitions (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    qpu_job_id TEXT NOT NULL REFERENCES qpu_jobs (qpu_job_id),
    sequence INTEGER NOT NULL,
    state TEXT NOT NULL,
    at REAL NOT NULL,
    text TEXT NOT NULL DEFAULT '',
    qpu_s REAL,
    published INTEGER NOT NULL DEFAULT 0,
    UNIQUE (qpu_job_id, sequence)
);
CREATE INDEX unpublished ON transitions (position) WHERE published = 0;
"""

_PROVIDERS = """
ALTER TABLE qpu_jobs ADD COLUMN job_budget_s REAL;
ALTER TABLE qpu_jobs ADD COLUMN user_budget_s REAL;
ALTER TABLE qpu_jobs ADD COLUMN simulated INTEGER NOT NULL DEFAULT 1;
ALTER TABLE qpu_jobs ADD COLUMN cancelling TEXT NOT NULL DEFAULT '';
ALTER TABLE transitions ADD COLUMN ahead INTEGER;
ALTER TABLE transitions ADD COLUMN wait_s REAL;
CREATE TABLE charges (
    charge_id TEXT PRIMARY KEY,
    job_id TEXT NOT NULL,
    user TEXT NOT NULL,
    backend TEXT NOT NULL,
    mode TEXT NOT NULL,
    qpu_seconds REAL NOT NULL,
    at REAL NOT NULL,
    published INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX charges_of_user ON charges (user, at);
CREATE INDEX charges_of_job ON charges (job_id);
CREATE INDEX unpublished_charges ON charges (at) WHERE published = 0;
CREATE INDEX jobs_of_user ON qpu_jobs (user, position);
CREATE INDEX uncharged_jobs ON qpu_jobs (position) WHERE finished_at IS NOT NULL AND qpu_s IS NULL;
CREATE TABLE upstream_jobs (
    qpu_job_id TEXT PRIMARY KEY REFERENCES qpu_jobs (qpu_job_id),
    instance TEXT NOT NULL,
    tag TEXT NOT NULL UNIQUE,
    intent_at REAL NOT NULL,
    upstream_id TEXT NOT NULL DEFAULT ''
);
CREATE INDEX upstream_jobs_by_time ON upstream_jobs (instance, intent_at);
CREATE TABLE upstream_sessions (
    charge_id TEXT PRIMARY KEY,
    session_id TEXT NOT NULL REFERENCES qpu_sessions (session_id),
    instance TEXT NOT NULL,
    mode TEXT NOT NULL,
    backend TEXT NOT NULL,
    intent_at REAL NOT NULL,
    upstream_id TEXT NOT NULL DEFAULT '',
    closing INTEGER NOT NULL DEFAULT 0,
    closed_at REAL
);
CREATE INDEX upstream_sessions_of_session ON upstream_sessions (session_id);
"""

_CHARGES_OF_OLD_JOBS = """
INSERT INTO charges (charge_id, job_id, user, backend, mode, qpu_seconds, at, published)
    SELECT j.qpu_job_id, j.job_id, j.user, j.backend, COALESCE(s.mode, 'job'), j.qpu_s, j.finished_at, 1
    FROM qpu_jobs j LEFT JOIN qpu_sessions s USING (session_id) WHERE j.qpu_s IS NOT NULL;
"""
"""Not told to the gateway, which knows the seconds of these jobs from their workers."""

_TRACES = "ALTER TABLE qpu_jobs ADD COLUMN traceparent TEXT NOT NULL DEFAULT '';"

_STEPS = (_TABLES, _PROVIDERS + _CHARGES_OF_OLD_JOBS, _TRACES)
"""What leads from each version to the next."""


def connect(path: Path) -> sqlite3.Connection:
    """Open the ledger, made if missing, so that what is committed survives a power cut.

    Raises:
        ValueError: It was written by a newer release.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA busy_timeout = 5000")
    found = connection.execute("PRAGMA user_version").fetchone()[0]
    if found > VERSION:
        connection.close()
        raise ValueError(f"{path} was written by a newer release (version {found}, this one knows {VERSION})")
    for version, step in enumerate(_STEPS[found:], start=found + 1):
        connection.executescript(f"BEGIN; {step} PRAGMA user_version = {version}; COMMIT;")
    return connection
