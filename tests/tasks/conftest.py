"""The use cases in process: a real ledger, real files and readers, the fake engine, and a bell that is heard here."""

from __future__ import annotations

from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol, cast

import cv2
import numpy as np
import pytest

from domain.errors import LostError, NightowlError
from domain.jobs import JobSpec
from domain.limits import Limits
from domain.messages import FINISH_JOB, PLAN_JOB, RUN_SLICE
from domain.settings import Settings
from storage import artifacts, jobs, parts
from storage.artifacts import ArtifactStore
from tasks.context import Context
from tasks.finish import finish_job
from tasks.heartbeat import Heartbeat
from tasks.plan import plan_job
from tasks.run import run_slice
from tasks.sweep import sweep
from worker.engines.base import Completion, FinishReason
from worker.engines.fake import FakeEngine, Switches
from worker.readers.base import LayerLine, Media, Page, Probe, TextLayer
from worker.readers.children import Readers
from worker.readers.mupdf import pymupdf

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future
    from pathlib import Path

    from domain.jobs import Job, Part
    from domain.params import Params
    from storage.artifacts import StoredFile
    from storage.session import Database
    from worker.engines.base import Request
    from worker.readers.base import Open

    Reply = Callable[[Request], Completion | str | Exception | None]


@pytest.fixture
def database_url(request: pytest.FixtureRequest) -> str:
    """SQLite, unless a test asks for more: what the databases do differently is tested in tests/storage."""
    kind = getattr(request, "param", "sqlite")
    return str(request.getfixturevalue(f"{'sqlite' if kind == 'sqlite' else 'postgres'}_url"))


@pytest.fixture(scope="session")
def readers() -> Iterator[Readers]:
    with Readers(limits=Limits(), children=1) as readers:
        yield readers


@dataclass
class Clock:
    now: datetime = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def pass_time(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@dataclass
class Bell:
    """What was rung for and not yet taken. `broken` is raised instead, once `works_for` messages went through."""

    messages: deque[tuple[str, tuple[Any, ...]]] = field(default_factory=deque)
    rung: list[tuple[str, tuple[Any, ...], str, int]] = field(default_factory=list)
    broken: Exception | None = None
    works_for: int = 0

    def __call__(self, task: str, *args: str | int, queue: str, priority: int) -> None:
        if self.broken is not None and len(self.rung) >= self.works_for:
            raise self.broken
        self.rung.append((task, args, queue, priority))
        self.messages.append((task, args))


class WatchedEngine(FakeEngine):
    """The fake engine; it keeps its requests, and `reply` may answer some of them otherwise."""

    def __init__(
        self, *, reply: Reply | None = None, switches: Switches | None = None, context_tokens: int = 2048
    ) -> None:
        super().__init__(switches=switches, context_tokens=context_tokens)
        self.requests: list[Request] = []
        self.reply = reply

    def submit(self, request: Request) -> Future[Completion]:
        self.requests.append(request)
        answer = self.reply(request) if self.reply else None
        future = super().submit(request)
        if answer is None or future.exception() is not None:  # a prompt that is too long fails as ever
            return future
        return settled(answer)

    @property
    def prompts(self) -> list[str]:
        return [request.turns[-1].text for request in self.requests]


def settled(answer: Completion | str | Exception) -> Future[Completion]:
    from concurrent.futures import Future

    future: Future[Completion] = Future()
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(completion(answer) if isinstance(answer, str) else answer)
    return future


def completion(text: str, **facts: Any) -> Completion:
    return Completion(text=text, finish_reason=FinishReason.STOP, facts=facts)


@dataclass
class Sheet:
    """A page as the stand-in reader gives it."""

    text: str | None = None
    trusted: bool = True
    blank: bool = False
    error: Exception | None = None


class StandInReaders:
    """Readers of a document whose pages a test writes down; the source may be any file that is not empty."""

    def __init__(self, *sheets: Sheet | str, media: Media = Media.DOCUMENT, warnings: tuple[str, ...] = ()) -> None:
        self.sheets = [Sheet(text=sheet) if isinstance(sheet, str) else sheet for sheet in sheets]
        self.media, self.warnings = media, warnings
        self.on_probe: Callable[[], None] = lambda: None

    def probe(self, source: Open, *, cancel: threading.Event | None = None) -> Probe:
        self.on_probe()
        return Probe(media=self.media, format="pdf", pages=len(self.sheets), warnings=self.warnings)

    def page(self, source: Open, number: int, *, target_pixels: int, cancel: threading.Event | None = None) -> Page:
        if cancel is not None and cancel.is_set():
            raise LostError("stopped")
        sheet = self.sheets[number - 1]
        if sheet.error is not None:
            raise sheet.error
        lines = (sheet.text or "").splitlines()
        layer = TextLayer(
            lines=tuple(
                LayerLine(text=line, box=(10, 20 * n, 500, 20 * n + 14), size=11) for n, line in enumerate(lines)
            ),
            trusted=sheet.trusted,
            reason="" if sheet.trusted else "glyphs without a Unicode map",
        )
        return Page(
            number=number,
            image=np.full((70, 50, 3), number % 256, np.uint8),
            width_points=500,
            height_points=700,
            blank=sheet.blank,
            layer=None if sheet.text is None else layer,
        )


@dataclass
class Worker:
    """A worker that a test drives by hand. `drive` hears the bell until the job is over."""

    context: Context
    bell: Bell
    clock: Clock
    engine: WatchedEngine

    def submit(self, params: Params, source: Path | str | None = None, **spec: Any) -> str:
        where = str(source) if source is not None else None
        values = JobSpec(kind=params.kind, params=params, source=where, **spec)
        with self.context.database.write() as session:
            return jobs.submit(session, values, now=self.clock.now)[0].id

    def insert(self, **values: Any) -> str:
        """A row as an application writes it."""
        with self.context.database.write() as session:
            return jobs.insert_row(session, "by-hand", values, now=self.clock.now).id

    def plan(self, job_id: str) -> Job:
        plan_job(self.context, job_id)
        return self.job(job_id)

    def run(self, job_id: str, slice: int = 1) -> None:
        run_slice(self.context, self.engine, job_id, slice)

    def finish(self, job_id: str) -> None:
        finish_job(self.context, job_id)

    def sweep(self) -> bool:
        return sweep(self.context)

    def hear(self) -> bool:
        """Take one message, as Celery would. False if there is none."""
        if not self.bell.messages:
            return False
        task, args = self.bell.messages.popleft()
        use_cases: dict[str, Callable[..., object]] = {
            PLAN_JOB: self.plan,
            RUN_SLICE: self.run,
            FINISH_JOB: self.finish,
        }
        use_cases[task](*args)
        return True

    def drive(self, job_id: str) -> Job:
        """Plan, then hear every message; where there is none, time passes and the sweep rings."""
        self.plan(job_id)
        for _ in range(60):
            if self.job(job_id).state.is_final:
                return self.job(job_id)
            if not self.hear():
                self.clock.pass_time(10)
                self.sweep()
        raise AssertionError(f"the job never ends: {self.job(job_id)}, {self.parts(job_id)}")

    def do(self, params: Params, source: Path | str | None = None, **spec: Any) -> Job:
        return self.drive(self.submit(params, source, **spec))

    def cancel(self, job_id: str) -> None:
        with self.context.database.write() as session:
            jobs.cancel(session, job_id, now=self.clock.now)

    def job(self, job_id: str) -> Job:
        with self.context.database.read() as session:
            return jobs.get(session, job_id)

    def parts(self, job_id: str) -> list[Part]:
        with self.context.database.read() as session:
            return parts.of_job(session, job_id)

    def files(self, job_id: str) -> dict[str, bytes]:
        with self.context.database.read() as session:
            stored = artifacts.of_job(session, job_id)
        assert len({file.name for file in stored}) == len(stored), "two result files have the same name"
        return {file.name: self.context.artifacts.read(file) for file in stored}

    def upload(self, content: bytes, name: str) -> StoredFile:
        stored = self.context.artifacts.put(content, name=name, media_type="application/octet-stream")
        with self.context.database.write() as session:
            artifacts.add(session, stored, role="source", job_id=None)
        return stored


class MakeWorker(Protocol):
    def __call__(
        self,
        readers: Readers | StandInReaders | None = None,
        *,
        engine: WatchedEngine | None = None,
        **settings: Any,
    ) -> Worker: ...


@pytest.fixture
def make_worker(database: Database, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[MakeWorker]:
    """Makes workers on one ledger. Without readers of its own a worker has the real ones."""
    engines: list[WatchedEngine] = []

    def make(
        readers: Readers | StandInReaders | None = None, *, engine: WatchedEngine | None = None, **settings: Any
    ) -> Worker:
        engine = engine or WatchedEngine()
        engines.append(engine)
        # These tests are about work; that it is done once is tested in test_reuse.py.
        made = Settings(**{"parts_in_flight": 2, "reuse": False, **settings})
        clock, bell = Clock(), Bell()
        context = Context(
            settings=made,
            database=database,
            artifacts=ArtifactStore(str(tmp_path / "artifacts")),
            readers=cast("Readers", readers or request.getfixturevalue("readers")),
            engine=engine,
            heartbeat=Heartbeat(database, lease_seconds=made.lease_seconds, poll_seconds=0.05, clock=clock),
            ring=bell,
            queued=lambda _: len(bell.messages),
            name=f"worker{len(engines)}",
            clock=clock,
        )
        return Worker(context, bell, clock, engine)

    yield make
    for engine in engines:
        engine.close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Something for the stand-in readers to stand before."""
    path = tmp_path / "report.pdf"
    path.write_bytes(b"not empty")
    return path


@pytest.fixture
def pdf(tmp_path: Path) -> Callable[..., Path]:
    """A PDF with a text per page; None is a blank page."""

    def make(*texts: str | None, name: str = "made.pdf", password: str | None = None) -> Path:
        document = pymupdf.open()
        for text in texts:
            page = document.new_page(width=300, height=400)
            if text:
                assert page.insert_textbox((20, 20, 280, 380), text, fontsize=9) >= 0, "the text does not fit"
        path = tmp_path / name
        locked = {"encryption": pymupdf.PDF_ENCRYPT_AES_256, "user_pw": password, "owner_pw": password}
        document.save(path, **(locked if password else {}))
        document.close()
        return path

    return make


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    noise = np.random.default_rng(5).integers(0, 255, (12, 16, 3)).astype(np.uint8)
    path = tmp_path / "picture.png"
    assert cv2.imwrite(str(path), np.kron(noise, np.ones((10, 10, 1), np.uint8)))
    return path


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Two scenes of two seconds each."""
    path = tmp_path / "clip.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, (64, 48))
    for seed in (1, 2):
        scene = np.random.default_rng(seed).integers(0, 255, (6, 8, 3)).astype(np.uint8)
        for _ in range(20):
            writer.write(np.kron(scene, np.ones((8, 8, 1), np.uint8)))
    writer.release()
    return path


@contextmanager
def joined(*threads: threading.Thread) -> Iterator[None]:
    """Start threads, and see them end."""
    for thread in threads:
        thread.start()
    yield
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()


def failing(error: NightowlError, *, on: Callable[[str], bool] = lambda _: True) -> Reply:
    """An engine's reply: this error to the prompts that `on` picks."""
    return lambda request: error if on(request.turns[-1].text) else None
