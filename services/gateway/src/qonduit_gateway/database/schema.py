"""The tables. Changes go through a migration under `migrations/versions`; a test compares the two."""

from __future__ import annotations

from qonduit_service_kit.messages import TaskState
from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# SQLite numbers rows by itself only for a column of exactly this type.
Serial = BigInteger().with_variant(Integer, "sqlite")

users = Table(
    "users",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("administrator", Boolean, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("limit_cpu_millis", BigInteger, comment="of one job's tasks together; without it the server's"),
    Column("limit_mem_bytes", BigInteger),
    Column("limit_gpus", Integer),
    Column("limit_qpu_seconds", Double, comment="in any 28 days; 0 for no limit, without it the server's"),
    Column("limit_file_bytes", BigInteger, comment="of all files together; 0 for no limit, without it the server's"),
    Column("limit_active_jobs", Integer, comment="not over at a time; 0 for no limit, without it the server's"),
    Column("limit_running_jobs", Integer, comment="placed at a time; 0 for no limit, without it the server's"),
    Column("limit_time_limit_seconds", Double, comment="longest of a job; without it the server's"),
    Column("disabled_text", Text, comment="why they are shut out; without it, they are not"),
)

tokens = Table(
    "tokens",
    metadata,
    Column("digest", String(64), primary_key=True, comment="sha256 of the token; the token itself is not kept"),
    Column("user_name", ForeignKey("users.name"), nullable=False),
    Column("label", String(64), nullable=False, comment="'bootstrap', 'created', or its maker's words"),
    Column("created_at", Double, nullable=False),
    Index(None, "user_name"),
)

providers = Table(
    "providers",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("created_at", Double, nullable=False),
    Column("created_by", ForeignKey("users.name"), nullable=False),
)

user_groups = Table(
    "user_groups",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("created_at", Double, nullable=False),
    Column("created_by", ForeignKey("users.name"), nullable=False),
)

group_members = Table(
    "group_members",
    metadata,
    Column("group_name", ForeignKey("user_groups.name"), primary_key=True),
    Column("user_name", ForeignKey("users.name"), primary_key=True),
    Index(None, "user_name"),
)

grants = Table(
    "grants",
    metadata,
    Column("provider", ForeignKey("providers.name"), primary_key=True),
    Column("function_title", String(255), primary_key=True, comment="'' for all of the provider's"),
    Column("grantee_kind", String(16), primary_key=True, comment="'user', 'group' or 'everyone'"),
    Column("grantee", String(64), primary_key=True, comment="'' for everyone"),
    Column("role", String(16), primary_key=True),
    Column("granted_by", String(64), nullable=False),
    Column("granted_at", Double, nullable=False),
    Index(None, "grantee_kind", "grantee"),
)

audit_entries = Table(
    "audit_entries",
    metadata,
    Column("entry_id", Serial, primary_key=True),
    Column("at", Double, nullable=False),
    Column("actor", String(64), nullable=False),
    Column("action", String(32), nullable=False),
    Column("provider", String(64), nullable=False, comment="'' for what was done to a group or a user"),
    Column("function_title", String(255), nullable=False, comment="'' for all of the provider's"),
    Column("subject", Text, nullable=False),
    Column("detail", Text, nullable=False),
    Index(None, "provider", "entry_id"),
    sqlite_autoincrement=True,
)

functions = Table(
    "functions",
    metadata,
    Column("function_id", Serial, primary_key=True),
    Column("owner", ForeignKey("users.name"), comment="whose it is, if it is no provider's"),
    Column("provider", ForeignKey("providers.name"), comment="whose it is, if it is no user's"),
    Column("title", String(255), nullable=False),
    Column("current_version_id", BigInteger, comment="the version uploaded last"),
    Column("updated_at", Double, nullable=False),
    Column("disabled_text", Text, comment="why it accepts no jobs; without it, it does"),
    UniqueConstraint("owner", "title"),
    UniqueConstraint("provider", "title"),
    CheckConstraint("(owner IS NULL) <> (provider IS NULL)", name="of_one"),
    Index(None, "owner", "updated_at", "function_id"),
    Index(None, "provider", "updated_at", "function_id"),
)

function_versions = Table(
    "function_versions",
    metadata,
    Column("version_id", Serial, primary_key=True),
    Column("function_id", ForeignKey("functions.function_id"), nullable=False),
    Column("version", String(64), nullable=False),
    Column("entrypoint", Text, nullable=False),
    Column("dependencies", JSON, nullable=False),
    Column("environment", JSON, nullable=False),
    Column("description", Text, nullable=False),
    Column("version_label", Text, nullable=False),
    Column("artifact_digest", String(64), nullable=False),
    Column("artifact_bytes", BigInteger, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("arguments_schema", Text, comment="a JSON Schema; without it anything goes"),
    UniqueConstraint("function_id", "version"),
    Index(None, "artifact_digest"),
)

function_aliases = Table(
    "function_aliases",
    metadata,
    Column("function_id", ForeignKey("functions.function_id"), primary_key=True),
    Column("alias", String(64), primary_key=True, comment="never 'latest': that is functions.current_version_id"),
    Column("version_id", ForeignKey("function_versions.version_id"), nullable=False),
    Index(None, "version_id"),
)

jobs = Table(
    "jobs",
    metadata,
    Column("job_id", String(36), primary_key=True),
    Column("owner", ForeignKey("users.name"), nullable=False),
    Column("version_id", ForeignKey("function_versions.version_id"), nullable=False),
    Column("function_title", String(255), nullable=False),
    Column("arguments_digest", String(64), nullable=False),
    Column("cpu_millis", BigInteger, nullable=False),
    Column("mem_bytes", BigInteger, nullable=False),
    Column("gpus", Integer, nullable=False),
    Column("time_limit_s", Double, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("state", String(16), nullable=False),
    Column("stage", String(32), nullable=False),
    Column("reason", String(32), nullable=False),
    Column("error_text", Text, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("last_sequence", BigInteger, nullable=False),
    Column("worker_id", String(255), nullable=False),
    Column("queued_at", Double, nullable=False),
    Column("started_at", Double),
    Column("ended_at", Double),
    Column("cancel_requested_at", Double),
    Column("exit_code", BigInteger),
    Column("signal", Integer),
    Column("result_digest", String(64), nullable=False),
    Column("result_bytes", BigInteger, nullable=False),
    Column("tell_again_at", Double, nullable=False, comment="when scheduler or worker are told again, if still silent"),
    Column("told_count", Integer, nullable=False, comment="how often they were told since the state changed"),
    Column("qpu_budget_s", Double, comment="most QPU seconds that it may be charged; without it no limit"),
    Column("files", JSON(none_as_null=True), comment="names of the files that it finds in /data; without it all"),
    Column("traceparent", String(64), nullable=False, server_default="", comment="where in a trace it was submitted"),
    Column("deleted_at", Double, comment="only the row is left, for the bills that refer to it"),
    Column(
        "provider", String(64), nullable=False, server_default="", comment="whose function it runs; '' for its user's"
    ),
    Column("trial", Boolean, nullable=False, server_default=false(), comment="its user may only try the function"),
    Index(None, "provider", "function_title", "created_at", "job_id"),
    Index(None, "arguments_digest"),
    Index(None, "result_digest"),
    Index(None, "ended_at"),
    Index(None, "owner", "created_at", "job_id"),
    Index(None, "owner", "ended_at"),
    Index(None, "state", "tell_again_at"),
)

job_events = Table(
    "job_events",
    metadata,
    Column("event_id", Serial, primary_key=True),
    Column("job_id", ForeignKey("jobs.job_id"), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("source", String(16), nullable=False, comment="'gateway' or 'worker': who numbered it"),
    Column("sequence", BigInteger, nullable=False),
    Column("after_sequence", BigInteger, nullable=False),
    Column("at", Double, nullable=False),
    Column("status", String(64), nullable=False),
    Column("text", Text, nullable=False),
    Column("error", JSON(none_as_null=True), comment="what the program told its users"),
    UniqueConstraint("job_id", "attempt", "source", "sequence"),
)

job_usage = Table(
    "job_usage",
    metadata,
    Column("job_id", ForeignKey("jobs.job_id"), primary_key=True),
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("stage", String(32), primary_key=True),
    Column("sequence", BigInteger, nullable=False, comment="of the event that brought these totals"),
    Column("wall_s", Double, nullable=False),
    Column("cpu_s", Double, nullable=False),
    Column("qpu_s", Double, nullable=False),  # As the worker said; the bill's are in qpu_charges.
    Column("peak_mem_bytes", BigInteger, nullable=False),
)

qpu_charges = Table(
    "qpu_charges",
    metadata,
    Column("charge_id", String(64), primary_key=True, comment="of a QPU job, or of a session charged by the clock"),
    Column("job_id", ForeignKey("jobs.job_id"), nullable=False),
    Column("user_name", String(64), nullable=False),
    Column("backend", String(255), nullable=False),
    Column("mode", String(16), nullable=False, comment="'job', 'batch' or 'dedicated'"),
    Column("qpu_s", Double, nullable=False),
    Column("at", Double, nullable=False, comment="when the QPU broker knew it"),
    Index(None, "job_id"),
    Index(None, "user_name", "at"),
)

task_pages = Table(
    "task_pages",
    metadata,
    Column("job_id", ForeignKey("jobs.job_id", ondelete="CASCADE"), primary_key=True),
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("page", Integer, primary_key=True, autoincrement=False),
    Column("revision", BigInteger, nullable=False, comment="of the page; rises with each time it is told"),
    *(Column(f"{state.value.lower()}_count", Integer, nullable=False) for state in TaskState),
    Column("packed", LargeBinary, nullable=False, comment="its tasks, as they came"),
)

dropped_blobs = Table(
    "dropped_blobs",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("dropped_at", Double, nullable=False, comment="when a job that had it was deleted"),
    Index(None, "dropped_at"),
)

outbox = Table(
    "outbox",
    metadata,
    Column("outbox_id", Serial, primary_key=True),
    Column("lane", String(16), nullable=False, comment="'bus' or 'log'"),
    Column("message_id", String(64), nullable=False),
    Column("exchange", String(255), nullable=False),
    Column("routing_key", String(255), nullable=False),
    Column("type_name", String(255), nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("created_at", Double, nullable=False),
    Index(None, "lane", "outbox_id"),
    # A row number that was sent and deleted must never be given out again: the relay remembers it.
    sqlite_autoincrement=True,
)

idempotency = Table(
    "idempotency",
    metadata,
    Column("owner", ForeignKey("users.name"), primary_key=True),
    Column("key", String(128), primary_key=True),
    Column("request_hash", String(64), nullable=False),
    Column("job_id", String(36), nullable=False),
    Column("created_at", Double, nullable=False),
)

scheduler_terms = Table(
    "scheduler_terms",
    metadata,
    Column("term", Serial, primary_key=True),
    Column("scheduler_id", String(255), nullable=False),
    Column("started_at", Double, nullable=False),
    # A term that was once given is never given again, whatever is deleted here.
    sqlite_autoincrement=True,
)

dead_letters = Table(
    "dead_letters",
    metadata,
    Column("dead_letter_id", Serial, primary_key=True),
    Column("fingerprint", String(64), nullable=False, unique=True, comment="tells a redelivered one"),
    Column("queue", String(255), nullable=False),
    Column("exchange", String(255), nullable=False),
    Column("routing_key", String(255), nullable=False),
    Column("type_name", String(255), nullable=False),
    Column("message_id", String(255), nullable=False),
    Column("reason", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("received_at", Double, nullable=False),
    Column("replayed_at", Double),
    sqlite_autoincrement=True,
)
