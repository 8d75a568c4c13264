"""The ledger's tables. docs/sql.md describes the columns that applications may read and write.

Every column that an application need not set has a server default, so that a plain INSERT of `id` and `kind` (and
`source`) is a job.
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, ClassVar, cast

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    func,
)
from sqlalchemy import (
    text as sql,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from domain.kinds import Kind
from domain.states import AttemptState, DeliveryState, JobState, MemberState, PartState, Phase


class UtcDateTime(TypeDecorator[datetime]):
    """An aware datetime in UTC on every database; SQLite stores it without its zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"naive datetime {value!r}; every time in the ledger is aware")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value if value is None or value.tzinfo else value.replace(tzinfo=UTC)


Json = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {datetime: UtcDateTime, dict[str, Any]: Json}


UNTAKEN = "token IS NULL AND state IN ('pending', 'running')"
UNRUNG = "rung_at IS NULL AND token IS NULL AND state = 'pending'"


def _where(name: str, condition: str, *columns: str) -> Index:
    """An index of the rows that meet the condition: small, however many rows are over."""
    return Index(name, *columns, sqlite_where=sql(condition), postgresql_where=sql(condition))


def _one_of(column: str, values: type[StrEnum]) -> CheckConstraint:
    allowed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({allowed})", name=f"{column}_known")


class Batch(Base):
    """Many jobs submitted together, with one kind and the same params (unless a member has its own) from `source`.

    `share` bounds the parts of it that are in flight. `submitted_at` is when a submit of it came to its end, `over_at`
    when none of its jobs was open any more; both are null while there is more to come.
    """

    __tablename__ = "batches"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str | None] = mapped_column(String(255), unique=True)
    kind: Mapped[str | None] = mapped_column(String(16))
    params: Mapped[dict[str, Any] | None]
    source: Mapped[str | None] = mapped_column(Text)
    share: Mapped[int | None]
    callback: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(server_default=func.current_timestamp())
    submitted_at: Mapped[datetime | None]
    cancelled_at: Mapped[datetime | None]
    over_at: Mapped[datetime | None]

    __table_args__ = (
        Index(
            "ix_batches_open",
            "created_at",
            sqlite_where=sql("over_at IS NULL"),
            postgresql_where=sql("over_at IS NULL"),
        ),
    )


class Member(Base):
    """A line of a batch's manifest: a file that became a job, or one that was skipped, and why.

    `digest` is what makes it the same member when the batch is submitted again: of its path, its content (or, where
    that was not read, its address) and the params of its own.
    """

    __tablename__ = "members"

    batch_id: Mapped[str] = mapped_column(ForeignKey("batches.id", ondelete="CASCADE"), primary_key=True)
    digest: Mapped[str] = mapped_column(String(40), primary_key=True)
    path: Mapped[str] = mapped_column(Text)
    sha256: Mapped[str | None] = mapped_column(String(64))
    size: Mapped[int | None] = mapped_column(BigInteger)
    format: Mapped[str | None] = mapped_column(String(64))
    state: Mapped[str] = mapped_column(String(16))
    job_id: Mapped[str | None] = mapped_column(
        ForeignKey("jobs.id", ondelete="CASCADE", deferrable=True, initially="DEFERRED")
    )
    error_code: Mapped[str | None] = mapped_column(String(64))
    error_message: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(server_default=func.current_timestamp())

    __table_args__ = (
        _one_of("state", MemberState),
        Index("ix_members_job_id", "job_id"),
    )


class Job(Base):
    """One source (or none), one kind, one set of params, one result.

    `token` is that of the attempt which plans or finishes the job now. `password` opens an encrypted source and is
    cleared when the job ends. `wants_engine` is what the application asked for, `engine` what ran. `attempts` counts
    every time that work on the job began or began anew; `tries` only those at the planning or finishing that is due
    now, and `deaths` those of them that ended with their worker.
    `sha256` is that of the source's content, `work_key` of everything that its result depends on. `reused_from` is the
    job whose result this one was given, or, while it is pending, waits for; `fresh` refuses both.
    """

    __tablename__ = "jobs"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    batch_id: Mapped[str | None] = mapped_column(ForeignKey("batches.id", ondelete="CASCADE"))
    key: Mapped[str | None] = mapped_column(String(255), unique=True)
    kind: Mapped[str] = mapped_column(String(16))
    state: Mapped[str] = mapped_column(String(16), server_default=JobState.PENDING)
    priority: Mapped[int] = mapped_column(server_default=sql("0"))
    source: Mapped[str | None] = mapped_column(Text)
    source_name: Mapped[str | None] = mapped_column(String(1024))
    params: Mapped[dict[str, Any]] = mapped_column(server_default=sql("'{}'"))
    password: Mapped[str | None] = mapped_column(Text)
    result: Mapped[dict[str, Any] | None]
    error_code: Mapped[str | None] = mapped_column(String(64))
    error_message: Mapped[str | None] = mapped_column(Text)
    error_retryable: Mapped[bool | None] = mapped_column(Boolean)
    wants_engine: Mapped[str | None] = mapped_column(String(255))
    engine: Mapped[str | None] = mapped_column(String(255))
    model: Mapped[str | None] = mapped_column(String(255))
    parts_total: Mapped[int] = mapped_column(server_default=sql("0"))
    parts_succeeded: Mapped[int] = mapped_column(server_default=sql("0"))
    parts_failed: Mapped[int] = mapped_column(server_default=sql("0"))
    attempts: Mapped[int] = mapped_column(server_default=sql("0"))
    tries: Mapped[int] = mapped_column(server_default=sql("0"))
    deaths: Mapped[int] = mapped_column(server_default=sql("0"))
    probe: Mapped[dict[str, Any] | None]
    sha256: Mapped[str | None] = mapped_column(String(64))
    work_key: Mapped[str | None] = mapped_column(String(64))
    reused_from: Mapped[str | None] = mapped_column(String(64))
    fresh: Mapped[bool] = mapped_column(Boolean, server_default=sql("false"))
    token: Mapped[str | None] = mapped_column(String(64))
    callback: Mapped[str | None] = mapped_column(Text)
    not_before: Mapped[datetime | None]
    rung_at: Mapped[datetime | None]
    change_seq: Mapped[int] = mapped_column(BigInteger, server_default=sql("0"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.current_timestamp())
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]

    __table_args__ = (
        _one_of("kind", Kind),
        _one_of("state", JobState),
        Index("ix_jobs_change_seq", "change_seq"),
        Index("ix_jobs_batch_id_state", "batch_id", "state"),
        Index("ix_jobs_created_at", "created_at"),
        _where("ix_jobs_work_key", "work_key IS NOT NULL", "work_key"),
        _where("ix_jobs_reused_from", "reused_from IS NOT NULL", "reused_from"),
        _where("ix_jobs_unrung", UNRUNG, "batch_id", "priority", "created_at", "id"),
        _where("ix_jobs_waiting", UNRUNG, "created_at", "id"),
        _where("ix_jobs_rung", f"rung_at IS NOT NULL AND {UNTAKEN}", "token", "rung_at"),
        _where("ix_jobs_put_off", "not_before IS NOT NULL", "not_before"),
        Index(
            "ix_jobs_open",
            "state",
            "priority",
            "created_at",
            sqlite_where=sql("state IN ('pending', 'running')"),
            postgresql_where=sql("state IN ('pending', 'running')"),
        ),
    )


class Part(Base):
    """A page or a segment: the smallest unit with a result of its own.

    `token` is that of the attempt that has claimed it; it is claimed while still `pending` and counts an attempt
    when it begins (`running`). A part that is over keeps the token, and `settled_by` is who wrote its end: the same, or
    somebody wrote who no longer held it. `deaths` counts the attempts that ended with their worker.
    `spec` says what it is: {"page": 3} or {"start": 1.5, "end": 4.0}.
    """

    __tablename__ = "parts"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    slice: Mapped[int]
    state: Mapped[str] = mapped_column(String(16), server_default=PartState.PENDING)
    spec: Mapped[dict[str, Any]]
    text: Mapped[str | None] = mapped_column(Text)
    data: Mapped[dict[str, Any] | None]
    error_code: Mapped[str | None] = mapped_column(String(64))
    error_message: Mapped[str | None] = mapped_column(Text)
    error_retryable: Mapped[bool | None] = mapped_column(Boolean)
    attempts: Mapped[int] = mapped_column(server_default=sql("0"))
    deaths: Mapped[int] = mapped_column(server_default=sql("0"))
    token: Mapped[str | None] = mapped_column(String(64))
    settled_by: Mapped[str | None] = mapped_column(String(64))
    not_before: Mapped[datetime | None]
    rung_at: Mapped[datetime | None]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]

    __table_args__ = (
        _one_of("state", PartState),
        Index(
            "ix_parts_waiting",
            "job_id",
            "slice",
            sqlite_where=sql("state = 'pending'"),
            postgresql_where=sql("state = 'pending'"),
        ),
        Index("ix_parts_token", "token"),
    )


class Attempt(Base):
    """One run of planning, of one slice or of finishing, by one worker: a claim, a lease, an outcome.

    `alone`: its worker had nothing else in work. `doing` is the last that was heard of it while it ran.
    """

    __tablename__ = "attempts"

    token: Mapped[str] = mapped_column(String(64), primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    phase: Mapped[str] = mapped_column(String(16))
    slice: Mapped[int | None]
    worker: Mapped[str] = mapped_column(String(255))
    state: Mapped[str] = mapped_column(String(16), server_default=AttemptState.RUNNING)
    lease_until: Mapped[datetime]
    alone: Mapped[bool] = mapped_column(Boolean, server_default=sql("false"))
    doing: Mapped[str | None] = mapped_column(Text)
    error_code: Mapped[str | None] = mapped_column(String(64))
    error_message: Mapped[str | None] = mapped_column(Text)
    started_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]

    __table_args__ = (
        _one_of("phase", Phase),
        _one_of("state", AttemptState),
        Index("ix_attempts_job_id", "job_id"),
        Index(
            "ix_attempts_leases",
            "lease_until",
            sqlite_where=sql("state = 'running'"),
            postgresql_where=sql("state = 'running'"),
        ),
    )


class Artifact(Base):
    """A stored file, input (`source`) or output (`result`). `url` is where storage/artifacts.py finds it."""

    __tablename__ = "artifacts"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    role: Mapped[str] = mapped_column(String(16))
    name: Mapped[str] = mapped_column(String(1024))
    media_type: Mapped[str] = mapped_column(String(255))
    size: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))
    url: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(server_default=func.current_timestamp())

    __table_args__ = (Index("ix_artifacts_job_id", "job_id"),)


class Delivery(Base):
    """A message to a callback: written by a trigger in the transaction that ends a job or a batch, sent by
    tasks/callbacks.py. Either `job_id` and `job_state` are set or `batch_id`."""

    __tablename__ = "deliveries"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    job_state: Mapped[str | None] = mapped_column(String(16))
    batch_id: Mapped[str | None] = mapped_column(ForeignKey("batches.id", ondelete="CASCADE"))
    url: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(String(16), server_default=DeliveryState.PENDING)
    attempts: Mapped[int] = mapped_column(server_default=sql("0"))
    not_before: Mapped[datetime | None]
    error_message: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(server_default=func.current_timestamp())
    finished_at: Mapped[datetime | None]

    __table_args__ = (
        _one_of("state", DeliveryState),
        _where("ix_deliveries_pending", "state = 'pending'", "created_at"),
        Index("ix_deliveries_job_id", "job_id"),
        Index("ix_deliveries_batch_id", "batch_id"),
        CheckConstraint("(job_id IS NULL) <> (batch_id IS NULL)", name="one_subject"),
    )


class Worker(Base):
    """A worker process as it reports itself every few seconds; see storage/presence.py."""

    __tablename__ = "workers"

    name: Mapped[str] = mapped_column(String(255), primary_key=True)
    seen_at: Mapped[datetime]
    started_at: Mapped[datetime]
    engine: Mapped[str | None] = mapped_column(String(255))
    in_hand: Mapped[int] = mapped_column(server_default=sql("0"))
    parts: Mapped[int] = mapped_column(BigInteger, server_default=sql("0"))
    pages: Mapped[int] = mapped_column(BigInteger, server_default=sql("0"))
    parts_per_second: Mapped[float] = mapped_column(server_default=sql("0"))
    pages_per_second: Mapped[float] = mapped_column(server_default=sql("0"))
    occupancy: Mapped[float | None]


class Digest(Base):
    """What a page or a segment was condensed to, by everything that this depends on (`key`); see tasks/digests.py.

    It goes with the job that made it.
    """

    __tablename__ = "digests"

    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    text: Mapped[str] = mapped_column(Text)
    data: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(server_default=func.current_timestamp())

    __table_args__ = (Index("ix_digests_job_id", "job_id"),)


class EvalRun(Base):
    """One data set through the queue: what was measured, with what, and the scores of the whole."""

    __tablename__ = "eval_runs"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str | None] = mapped_column(String(255))
    task: Mapped[str] = mapped_column(String(16))
    manifest: Mapped[str] = mapped_column(Text)
    engine: Mapped[str | None] = mapped_column(String(255))
    model: Mapped[str | None] = mapped_column(String(255))
    params: Mapped[dict[str, Any]] = mapped_column(server_default=sql("'{}'"))
    scores: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.current_timestamp())
    finished_at: Mapped[datetime | None]

    __table_args__ = (Index("ix_eval_runs_created_at", "created_at"),)


class EvalItem(Base):
    """One file, or one question, of a run: what was asked, what should have come out, what did, and its scores.

    `name` is the same in every run over the same data set. `reference_texts` is {"texts": [...]}. `scores` is empty
    where there is nothing to hold the prediction against; `error` says why there is no prediction.
    """

    __tablename__ = "eval_items"

    run_id: Mapped[str] = mapped_column(ForeignKey("eval_runs.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(1024))
    source: Mapped[str | None] = mapped_column(Text)
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id", ondelete="SET NULL"))
    params: Mapped[dict[str, Any]] = mapped_column(server_default=sql("'{}'"))
    labels: Mapped[dict[str, Any]] = mapped_column(server_default=sql("'{}'"))
    reference_texts: Mapped[dict[str, Any]] = mapped_column(server_default=sql("'{}'"))
    prediction: Mapped[str | None] = mapped_column(Text)
    facts: Mapped[dict[str, Any] | None]
    scores: Mapped[dict[str, Any] | None]
    seconds: Mapped[float | None]
    error: Mapped[str | None] = mapped_column(Text)

    __table_args__ = (Index("ix_eval_items_job_id", "job_id"),)


class Ledger(Base):
    """Two rows: `change_seq`, whose value every change of a job counts up, and `sweep`, whose holder sweeps."""

    __tablename__ = "ledger"

    name: Mapped[str] = mapped_column(String(16), primary_key=True)
    value: Mapped[int] = mapped_column(BigInteger, server_default=sql("0"))
    holder: Mapped[str | None] = mapped_column(String(255))
    until: Mapped[datetime | None]


def table(entity: type[Base]) -> Table:
    """The entity's plain table. A statement of it goes past the ORM, which costs more than the statement itself."""
    return cast("Table", entity.__table__)
