"""What is always true of a ledger, asked of it in SQL: `check` names every row that breaks a promise.

Each question is one statement that returns the rows for which it is broken, so that the database does the work, on a
million rows too, and a ledger that is in use is seen as it was at one moment. All of them hold between any two
transactions of any worker; that is what the state machine of the tests and the chaos runs assert.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import Integer, and_, case, exists, false, func, literal, not_, null, or_, select, true, union_all

from domain.states import AttemptState, JobState, PartState, Phase
from storage import artifacts
from storage.changes import CHANGE_SEQ, SWEEP
from storage.jobs import OPEN, UNSETTLED
from storage.session import take_time
from storage.tables import Artifact, Attempt, Batch, Job, Ledger, Part

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import ColumnElement, Select
    from sqlalchemy.orm import Session

    from storage.artifacts import ArtifactStore

MOST = 100
"""Violations of one invariant that are told; a ledger that is broken all over need not be printed."""
FETCH_ROWS = 1000


class Invariant(StrEnum):
    """Stable names, described in docs/reliability.md."""

    JOB_STUCK = "job_stuck"
    PART_STUCK = "part_stuck"
    PART_COUNTS = "part_counts"
    PART_RESULT = "part_result"
    ATTEMPTS_CAP = "attempts_cap"
    STALE_OWNER = "stale_owner"
    JOB_OVER = "job_over"
    JOB_END = "job_end"
    ARTIFACT_MISSING = "artifact_missing"
    ORPHAN = "orphan"
    CHANGE_SEQ = "change_seq"
    PASSWORD_KEPT = "password_kept"
    LEDGER_ROWS = "ledger_rows"


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """A promise that a row breaks. `job_id` and `part` are None where it is not about one."""

    name: Invariant
    job_id: str | None
    part: int | None
    detail: str

    def to_json(self) -> dict[str, Any]:
        return {"type": "violation", **asdict(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How many rows were looked at."""

    jobs: int
    parts: int
    attempts: int


def size(session: Session) -> Size:
    jobs, parts, attempts = (
        session.scalar(select(func.count()).select_from(table)) or 0 for table in (Job, Part, Attempt)
    )
    return Size(jobs=jobs, parts=parts, attempts=attempts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """`broken` selects the rows that break the invariant, as (job_id, part, detail's columns …)."""

    name: Invariant
    broken: Select[*tuple[Any, ...]]
    detail: str


def check(session: Session, artifacts: ArtifactStore | None = None, *, max_attempts: int = 3) -> list[Violation]:
    """Every violation, at most `MOST` of each invariant; a sound ledger has none.

    `artifacts` is where the stored files are looked for; without it only their rows are. `max_attempts` is the setting.
    """
    asked = questions(session.get_bind().dialect.name, max_attempts)
    found = [violation for question in asked for violation in _ask(session, question)]
    if artifacts is not None:
        found += _missing_files(session, artifacts)
    return found


@cache
def questions(dialect: str, max_attempts: int) -> tuple[Question, ...]:
    """All that can be asked in SQL. What is asked of JSON columns depends on the database."""
    json = Json(is_sqlite=dialect == "sqlite")
    asked = (
        *_about_work(),
        *_about_results(max_attempts),
        *_about_owners(),
        *_about_ends(),
        *_about_files(json),
        *_about_the_rest(json),
    )
    return tuple(replace(question, broken=question.broken.limit(MOST)) for question in asked)


def _ask(session: Session, question: Question) -> Iterator[Violation]:
    for row in session.execute(question.broken):
        job_id, part = row[0], row[1]
        yield Violation(name=question.name, job_id=job_id, part=part, detail=question.detail.format(**row._mapping))


# What moves a job on.

_over = Job.state.not_in(OPEN)
_settled = Part.state.not_in(UNSETTLED)
_no_part = null().label("part")


def _about_work() -> Iterator[Question]:
    phase = case((Job.state == JobState.PENDING, Phase.PLAN), else_=Phase.FINISH)
    holder = _running_attempt(Attempt.token == Job.token, Attempt.job_id == Job.id, Attempt.phase == phase)
    yield Question(
        name=Invariant.JOB_STUCK,
        broken=select(Job.id, _no_part, Job.state, Job.token).where(
            Job.state.in_(OPEN), Job.token.is_not(None), not_(holder)
        ),
        detail="is {state} and held by {token}, which is no running attempt: nobody will plan or finish it",
    )
    worker = _running_attempt(
        Attempt.token == Part.token,
        Attempt.job_id == Part.job_id,
        Attempt.phase == Phase.SLICE,
        Attempt.slice == Part.slice,
    )
    held_by_nobody = and_(Part.token.is_(None), Part.state == PartState.RUNNING)
    yield Question(
        name=Invariant.PART_STUCK,
        broken=select(Part.job_id, Part.number.label("part"), Part.state, Part.token)
        .join(Job, Job.id == Part.job_id)
        .where(
            Job.state == JobState.RUNNING,
            Part.state.in_(UNSETTLED),
            or_(held_by_nobody, and_(Part.token.is_not(None), not_(worker))),
        ),
        detail="is {state} and held by {token}, which is no running attempt at its slice: nobody will work on it",
    )
    yield _part_counts()


def _running_attempt(*which: ColumnElement[bool]) -> ColumnElement[bool]:
    return exists().where(*which, Attempt.state == AttemptState.RUNNING)


def _part_counts() -> Question:
    def of(state: PartState) -> ColumnElement[int]:
        return func.sum(case((Part.state == state, 1), else_=0), type_=Integer)

    counted = (
        select(
            Part.job_id,
            func.count().label("total"),
            of(PartState.SUCCEEDED).label("succeeded"),
            of(PartState.FAILED).label("failed"),
        )
        .group_by(Part.job_id)
        .subquery()
    )
    total, succeeded, failed = (func.coalesce(counted.c[name], 0) for name in ("total", "succeeded", "failed"))
    return Question(
        name=Invariant.PART_COUNTS,
        broken=select(
            Job.id,
            _no_part,
            Job.parts_total,
            Job.parts_succeeded,
            Job.parts_failed,
            total.label("total"),
            succeeded.label("succeeded"),
            failed.label("failed"),
        )
        .join(counted, counted.c.job_id == Job.id, isouter=True)
        .where(or_(Job.parts_total != total, Job.parts_succeeded != succeeded, Job.parts_failed != failed)),
        detail="says {parts_total} parts, {parts_succeeded} succeeded and {parts_failed} failed; "
        "there are {total}, {succeeded} and {failed}",
    )


# What a part gives back, and what it cost.


def _about_results(max_attempts: int) -> Iterator[Question]:
    no_error, no_text = Part.error_code.is_(None), Part.text.is_(None)
    unfinished = Part.finished_at.is_(None)
    shapes = {
        PartState.SUCCEEDED: or_(no_text, not_(no_error), unfinished),
        PartState.FAILED: or_(no_error, not_(no_text), unfinished),
        PartState.PENDING: or_(not_(no_error), not_(no_text), not_(unfinished), Part.settled_by.is_not(None)),
    }
    shapes[PartState.RUNNING] = shapes[PartState.PENDING]
    yield Question(
        name=Invariant.PART_RESULT,
        broken=select(Part.job_id, Part.number.label("part"), Part.state).where(
            or_(*(and_(Part.state == state, wrong) for state, wrong in shapes.items()))
        ),
        detail="is {state}: a part that succeeded has its text, one that failed its error, and any other neither",
    )
    yield Question(
        name=Invariant.ATTEMPTS_CAP,
        broken=select(Part.job_id, Part.number.label("part"), Part.state, Part.attempts).where(
            or_(
                Part.attempts > max_attempts,
                Part.attempts < case((Part.state == PartState.PENDING, 0), else_=1),
            )
        ),
        detail="is {state} after {attempts} attempts, and there may be "
        f"{max_attempts} (setting NIGHTOWL_MAX_ATTEMPTS; work counts before it begins)",
    )
    yield Question(
        name=Invariant.ATTEMPTS_CAP,
        broken=select(Job.id, _no_part, Job.state, Job.tries).where(
            or_(Job.tries > max_attempts, Job.tries < case((Job.token.is_(None), 0), else_=1))
        ),
        detail="is {state} after {tries} tries at planning or finishing it, and there may be "
        f"{max_attempts} (setting NIGHTOWL_MAX_ATTEMPTS; work counts before it begins)",
    )


# Who wrote it.


def _about_owners() -> Iterator[Question]:
    writer = exists().where(
        Attempt.token == Part.settled_by,
        Attempt.job_id == Part.job_id,
        Attempt.phase == Phase.SLICE,
        Attempt.slice == Part.slice,
    )
    yield Question(
        name=Invariant.STALE_OWNER,
        broken=select(Part.job_id, Part.number.label("part"), Part.state, Part.settled_by, Part.token).where(
            _settled, or_(Part.settled_by.is_(None), Part.settled_by.is_distinct_from(Part.token), not_(writer))
        ),
        detail="was settled as {state} by {settled_by} while {token} held it, or by no attempt at its slice",
    )
    yield Question(
        name=Invariant.STALE_OWNER,
        broken=select(Attempt.job_id, _no_part, Attempt.token, Attempt.phase, Job.token.label("holder"))
        .join(Job, Job.id == Attempt.job_id)
        .where(
            Attempt.state == AttemptState.RUNNING,
            Attempt.phase != Phase.SLICE,
            Job.state.in_(OPEN),
            Attempt.token.is_distinct_from(Job.token),
        ),
        detail="attempt {token} runs to {phase} it, but {holder} holds it",
    )
    yield Question(
        name=Invariant.STALE_OWNER,
        broken=select(Part.job_id, _no_part, Part.token, func.count().label("held"))
        .join(Attempt, Attempt.token == Part.token)
        .where(Part.state.in_(UNSETTLED), Attempt.alone == true())
        .group_by(Part.job_id, Part.token)
        .having(func.count() > 1),
        detail="attempt {token} is to work alone, but holds {held} parts",
    )
    finisher = exists().where(
        Attempt.job_id == Job.id, Attempt.phase == Phase.FINISH, Attempt.state == AttemptState.SUCCEEDED
    )
    yield Question(
        name=Invariant.STALE_OWNER,
        broken=select(Job.id, _no_part, Job.state).where(
            Job.state.in_((JobState.SUCCEEDED, JobState.PARTIAL)), Job.reused_from.is_(None), not_(finisher)
        ),
        detail="is {state}, but no attempt at finishing it succeeded",
    )


# What is over.


def _about_ends() -> Iterator[Question]:
    yield Question(
        name=Invariant.JOB_OVER,
        broken=select(Job.id, _no_part, Job.state, Job.token).where(_over, Job.token.is_not(None)),
        detail="is {state} and still held by {token}",
    )
    yield Question(
        name=Invariant.JOB_OVER,
        broken=select(Attempt.job_id, _no_part, Job.state, Attempt.token, Attempt.phase)
        .join(Job, Job.id == Attempt.job_id)
        .where(Attempt.state == AttemptState.RUNNING, _over),
        detail="is {state}, but attempt {token} ({phase}) still runs and has a lease",
    )
    yield Question(
        name=Invariant.JOB_OVER,
        broken=select(Part.job_id, Part.number.label("part"), Job.state.label("job_state"), Part.state, Part.token)
        .join(Job, Job.id == Part.job_id)
        .where(or_(Part.state == PartState.RUNNING, and_(Part.state == PartState.PENDING, Part.token.is_not(None))))
        .where(_over),
        detail="is {state} and held by {token}, but the job is {job_state}",
    )
    yield Question(
        name=Invariant.JOB_END,
        broken=select(Job.id, _no_part, Job.state, Job.error_code, Job.finished_at).where(_ends_wrongly()),
        detail="is {state} with error {error_code}, finished {finished_at}: its state, times, counts, result and error "
        "do not belong together",
    )


def _ends_wrongly() -> ColumnElement[bool]:
    result, error = Job.result.is_not(None), Job.error_code.is_not(None)
    parts_over = Job.parts_succeeded + Job.parts_failed == Job.parts_total
    shapes = {
        JobState.SUCCEEDED: and_(result, not_(error), Job.parts_succeeded == Job.parts_total),
        JobState.PARTIAL: and_(result, error, parts_over, Job.parts_succeeded > 0),
        JobState.FAILED: and_(not_(result), error),
        JobState.CANCELLED: and_(not_(result), not_(error)),
        JobState.PENDING: and_(not_(result), not_(error)),
        JobState.RUNNING: and_(not_(result), not_(error)),
    }
    wrong = [and_(Job.state == state, not_(right)) for state, right in shapes.items()]
    return or_(*wrong, and_(_over, Job.finished_at.is_(None)), and_(not_(_over), Job.finished_at.is_not(None)))


# Files, and what must not be kept.


@dataclass(frozen=True, slots=True, kw_only=True)
class Json:
    """What is asked of JSON columns, in the words of the database."""

    is_sqlite: bool

    def count_artifacts(self) -> ColumnElement[int]:
        """How many artifacts a job's result names."""
        if self.is_sqlite:
            return func.json_array_length(Job.result, "$.artifacts", type_=Integer)
        return func.jsonb_array_length(Job.result["artifacts"], type_=Integer)

    def has_password(self) -> ColumnElement[bool]:
        """Whether params have a password. SQLite stores any text there, and fails on one that is no JSON."""
        found = Job.params["password"].as_string().is_not(None)
        return case((func.json_valid(Job.params) == 1, found), else_=false()) if self.is_sqlite else found


def _about_files(json: Json) -> Iterator[Question]:
    id = func.substr(Job.source, len(artifacts.SCHEME) + 1)
    yield Question(
        name=Invariant.ARTIFACT_MISSING,
        broken=select(Job.id, _no_part, Job.source).where(
            Job.state.in_(OPEN), Job.source.startswith(artifacts.SCHEME), not_(exists().where(Artifact.id == id))
        ),
        detail="is to read {source}, of which there is no row",
    )
    stored = (
        select(func.count())
        .where(Artifact.job_id == Job.id, Artifact.role == "result")
        .correlate(Job)
        .scalar_subquery()
    )
    yield Question(
        name=Invariant.ARTIFACT_MISSING,
        broken=select(Job.id, _no_part, json.count_artifacts().label("named"), stored.label("rows")).where(
            Job.result.is_not(None), json.count_artifacts() != stored
        ),
        detail="names {named} result files, and has the rows of {rows}",
    )


def _missing_files(session: Session, store: ArtifactStore) -> list[Violation]:
    """The rows whose file is not in the store. One look for each file, some rows at a time."""
    take_time(session)
    rows = session.execute(select(Artifact).order_by(Artifact.id).execution_options(yield_per=FETCH_ROWS)).scalars()
    found: list[Violation] = []
    for row in rows:
        if store.exists(artifacts.to_file(row)):
            continue
        detail = f"the file of {row.name} ({row.role}, artifact {row.id}) is not in the store"
        found.append(Violation(name=Invariant.ARTIFACT_MISSING, job_id=row.job_id, part=None, detail=detail))
        if len(found) == MOST:
            break
    return found


# Numbers, references, secrets.


def _about_the_rest(json: Json) -> Iterator[Question]:
    yield from _orphans()
    yield from _change_numbers()
    yield Question(
        name=Invariant.PASSWORD_KEPT,
        broken=select(Job.id, _no_part, Job.state).where(_over, or_(Job.password.is_not(None), json.has_password())),
        detail="is {state} and still has the password of its source",
    )
    names = union_all(*(select(literal(name).label("name")) for name in (CHANGE_SEQ, SWEEP))).subquery()
    yield Question(
        name=Invariant.LEDGER_ROWS,
        broken=select(null().label("job_id"), _no_part, names.c.name).where(
            not_(exists().where(Ledger.name == names.c.name))
        ),
        detail="the table ledger has no row {name}",
    )


def _orphans() -> Iterator[Question]:
    """Rows of a job or batch that is not there. The databases refuse them; SQLite only where it is asked to."""
    for table, row, what in (
        (Part, Part.number, "a part"),
        (Attempt, null(), "an attempt"),
        (Artifact, null(), "a file"),
    ):
        of = table.job_id
        yield Question(
            name=Invariant.ORPHAN,
            broken=select(of, row.label("part")).where(of.is_not(None), not_(exists().where(Job.id == of))).distinct(),
            detail=f"has {what}, but there is no such job",
        )
    yield Question(
        name=Invariant.ORPHAN,
        broken=select(Job.id, _no_part, Job.batch_id).where(
            Job.batch_id.is_not(None), not_(exists().where(Batch.id == Job.batch_id))
        ),
        detail="belongs to batch {batch_id}, and there is no such batch",
    )


def _change_numbers() -> Iterator[Question]:
    """A row that an application inserted has 0 until it is planned."""
    jobs = func.count()
    yield Question(
        name=Invariant.CHANGE_SEQ,
        broken=select(func.min(Job.id), _no_part, Job.change_seq, jobs.label("jobs"))
        .where(Job.change_seq != 0)
        .group_by(Job.change_seq)
        .having(jobs > 1),
        detail="has change number {change_seq}, which {jobs} jobs have",
    )
    counter = select(Ledger.value).where(Ledger.name == CHANGE_SEQ).scalar_subquery()
    yield Question(
        name=Invariant.CHANGE_SEQ,
        broken=select(Job.id, _no_part, Job.change_seq, counter.label("counter")).where(
            or_(Job.change_seq > counter, Job.change_seq < 0)
        ),
        detail="has change number {change_seq}, and the counter stands at {counter}",
    )
