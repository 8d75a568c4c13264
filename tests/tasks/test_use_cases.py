"""Planning, running, finishing and sweeping, driven by hand: what the row says at the end, whatever happened before."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
from kombu.exceptions import OperationalError
from sqlalchemy import select, text, update

from domain.errors import Code, EngineError, SourceError
from domain.messages import FINISH_JOB, INTERACTIVE, NORMAL, PLAN_JOB, RUN_SLICE
from domain.params import Ask, Caption, ChatTurn, Copywrite, Ocr, Params, Summarize
from domain.plain import clean
from domain.settings import Settings
from domain.states import AttemptState, JobState, PartState
from storage import tables
from tasks import summarize
from tasks.bell import ring_again, ring_due
from tasks.work import POLL_SECONDS, Desk, StoppedError, probe_from_json, probe_to_json
from tests.readers.blanks import BLANKS
from tests.tasks.conftest import Sheet, StandInReaders, WatchedEngine, completion, failing, joined, settled
from worker.engines.base import Completion, FinishReason, Purpose, Request
from worker.engines.fake import Switches
from worker.readers.base import Media, Probe
from worker.readers.mupdf import pymupdf

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from concurrent.futures import Future
    from pathlib import Path

    from domain.jobs import Job
    from tests.tasks.conftest import MakeWorker, Reply, Worker

    MakePdf = Callable[..., Path]

DAMAGED = SourceError("page 2 of report.pdf cannot be drawn", code=Code.PAGE_DAMAGED)
BUSY = EngineError("the engine is busy")
LONG = " ".join(f"Sentence number {n} speaks about owls at night." for n in range(60))
QUESTION = "What is the number of the zebra invoice?"


def column(worker: Worker, name: str, job_id: str) -> Any:
    with worker.context.database.read() as session:
        return session.scalar(select(getattr(tables.Job, name)).where(tables.Job.id == job_id))


def attempts(worker: Worker) -> list[tuple[str, str]]:
    with worker.context.database.read() as session:
        query = select(tables.Attempt.phase, tables.Attempt.state).order_by(tables.Attempt.started_at)
        return [(phase, state) for phase, state in session.execute(query)]


def not_before(worker: Worker, number: int = 1) -> Any:
    with worker.context.database.read() as session:
        return session.scalar(select(tables.Part.not_before).where(tables.Part.number == number))


def error_of(job: Job) -> tuple[str, str]:
    assert job.error is not None
    return job.error.code, job.error.message


def told(job: Job) -> tuple[str, dict[str, Any]]:
    """Text and data of a result."""
    assert job.result is not None, job.error
    return job.result.text, dict(job.result.data)


# Whole jobs, with real files and the real readers.


def test_ocr_of_a_text_file(make_worker: MakeWorker, tmp_path: Path) -> None:
    worker = make_worker()
    source = tmp_path / "notes.txt"
    source.write_text("The owl reads at night.\nIt sleeps by day.\n")
    job = worker.do(Ocr(), source)
    written, data = told(job)
    assert job.state is JobState.SUCCEEDED
    assert "The owl reads at night." in written
    assert data["pages"] == [{"part": "page 1", "how": "layer"}]
    assert worker.files(job.id) == {"text.md": written.encode()}
    assert (job.engine, job.model, job.parts.total, job.attempts) == ("fake", "fake", 1, 1)
    assert worker.engine.requests == []
    assert {state for _, state in attempts(worker)} == {AttemptState.SUCCEEDED}


def test_ocr_of_a_pdf_as_text_puts_form_feeds_between_pages(make_worker: MakeWorker, pdf: MakePdf) -> None:
    worker = make_worker()
    job = worker.do(Ocr(output="text"), pdf("First page.", None, "Third page."))
    assert told(job)[0] == "First page.\f\fThird page."
    assert list(worker.files(job.id)) == ["text.txt"]
    first, blank, _ = worker.parts(job.id)
    assert (blank.text, blank.data["how"]) == ("", "blank")
    (line,) = first.data["lines"]
    assert line["text"] == "First page."
    assert 0 <= line["box"][0] < line["box"][2] <= first.data["width"]
    assert worker.engine.requests == []


def test_a_table_of_a_pdf_is_markdown_and_its_cells_are_data(make_worker: MakeWorker, tmp_path: Path) -> None:
    worker = make_worker()
    document = pymupdf.open()
    page = document.new_page(width=300, height=200)
    for n in range(3):
        page.draw_line((20, 20 + 30 * n), (220, 20 + 30 * n))
        page.draw_line((20 + 100 * n, 20), (20 + 100 * n, 80))
    for word, place in (("Bird", (25, 40)), ("Seen", (125, 40)), ("owl", (25, 70)), ("3", (125, 70))):
        page.insert_text(place, word, fontsize=10)
    document.save(source := tmp_path / "birds.pdf")
    job = worker.do(Ocr(), source)
    assert told(job)[0] == "| Bird | Seen |\n|---|---|\n| owl | 3 |"
    (part,) = worker.parts(job.id)
    (table,) = part.data["tables"]
    assert table["rows"] == [["Bird", "Seen"], ["owl", "3"]]
    assert told(worker.do(Ocr(output="text"), source))[0] == "Bird\tSeen\nowl\t3"


def test_a_blank_page_never_meets_the_engine_whatever_the_kind(make_worker: MakeWorker, pdf: MakePdf) -> None:
    worker, source = make_worker(), pdf(None)
    empty: tuple[Params, ...] = (Ocr(), Ocr(mode="image"), Caption())
    for params in empty:
        job = worker.do(params, source)
        assert job.state is JobState.SUCCEEDED
        assert told(job)[0] == ""
        (part,) = worker.parts(job.id)
        assert (part.text, part.data["how"]) == ("", "blank")
    refused: tuple[Params, ...] = (Summarize(), Ask(question="Who?"), Copywrite())
    for params in refused:
        job = worker.do(params, source)
        assert job.state is JobState.FAILED
        assert error_of(job)[0] == Code.NO_PAGES
        assert "blank" in error_of(job)[1]
    assert worker.engine.requests == []


def test_no_text_is_invented_for_any_kind_of_empty_sheet(make_worker: MakeWorker, tmp_path: Path) -> None:
    document = pymupdf.open()
    for make in BLANKS.values():
        image = cv2.resize(make(), (707, 1000), interpolation=cv2.INTER_AREA)
        page = document.new_page(width=707, height=1000)
        page.insert_image(page.rect, pixmap=pymupdf.Pixmap(pymupdf.csRGB, 707, 1000, image.tobytes(), False))
    document.save(source := tmp_path / "blanks.pdf", deflate=True)
    worker = make_worker(engine=WatchedEngine(reply=lambda _: "An invented sentence."))
    job = worker.do(Ocr(), source)
    assert [(part.text, part.data["how"], part.data["marks"]) for part in worker.parts(job.id)] == [
        ("", "blank", [])
    ] * len(BLANKS)
    assert worker.engine.requests == []


def test_no_text_is_invented_for_a_film_of_nothing(make_worker: MakeWorker, tmp_path: Path) -> None:
    writer = cv2.VideoWriter(str(tmp_path / "black.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 10, (64, 48))
    for _ in range(20):
        writer.write(np.zeros((48, 64, 3), np.uint8))
    writer.release()
    worker = make_worker(engine=WatchedEngine(reply=lambda _: "An invented sentence."))
    job = worker.do(Ocr(), tmp_path / "black.mp4")
    assert [(part.text, part.data["how"]) for part in worker.parts(job.id)] == [("", "blank")]
    assert worker.engine.requests == []


def test_ocr_of_a_picture_is_the_engines(make_worker: MakeWorker, picture: Path) -> None:
    worker = make_worker()
    job = worker.do(Ocr(), picture)
    assert job.state is JobState.SUCCEEDED
    assert told(job)[0].startswith("read 160x120")
    (part,) = worker.parts(job.id)
    assert (part.data["how"], part.data["confidence"]) == ("image", 1.0)
    assert [request.purpose for request in worker.engine.requests] == [Purpose.READ]


def test_an_encrypted_document_opens_with_its_password_which_is_then_forgotten(
    make_worker: MakeWorker, pdf: MakePdf
) -> None:
    worker, source = make_worker(), pdf("A secret.", password="open sesame")
    job_id = worker.submit(Ocr.model_validate({"password": "open sesame"}), source)
    assert column(worker, "password", job_id) == "open sesame"
    assert "A secret." in told(worker.drive(job_id))[0]
    assert column(worker, "password", job_id) is None
    assert worker.job(job_id).password is None
    assert error_of(worker.do(Ocr(), source))[0] == Code.PASSWORD_REQUIRED
    wrong = worker.submit(Ocr.model_validate({"password": "sesame"}), source)
    assert error_of(worker.drive(wrong))[0] == Code.PASSWORD_WRONG
    assert column(worker, "password", wrong) is None


def test_a_password_among_the_params_of_a_row_is_forgotten_too(make_worker: MakeWorker, pdf: MakePdf) -> None:
    """docs/kinds.md: in SQL and over Celery a param is a key of `params`, the password too."""
    worker = make_worker()
    source = pdf("A secret.", password="open sesame")
    job_id = worker.insert(kind="ocr", source=str(source), params={"password": "open sesame", "mode": "text"})
    job = worker.drive(job_id)
    assert job.state is JobState.SUCCEEDED
    assert column(worker, "params", job_id) == {"mode": "text"}
    assert "open sesame" not in repr(job)


def test_summarize_ask_and_copywrite_of_a_pdf(make_worker: MakeWorker, pdf: MakePdf) -> None:
    worker = make_worker()
    source = pdf(LONG[:1500], "The zebra invoice has the number 4711.", "A page about nothing much at all.")
    job = worker.do(Summarize(), source)
    assert job.state is JobState.SUCCEEDED
    assert [point["page"] for point in told(job)[1]["key_points"]] == [1, 2, 3]
    assert told(job)[1]["key_points"][1]["text"] == "The zebra invoice has the number 4711."

    job = worker.do(Ask(question=QUESTION), source)
    assert job.state is JobState.SUCCEEDED
    assert {"page": 2} in told(job)[1]["sources"]
    assert "The zebra invoice has the number 4711." in worker.engine.prompts[-1]

    job = worker.do(Copywrite(brief="an owl", channel="email"), source)
    assert job.state is JobState.SUCCEEDED
    assert told(job)[1]["channel"] == "email"
    assert "The zebra invoice has the number 4711." in told(job)[1]["facts"]
    assert "The zebra invoice" in worker.engine.prompts[-1]


def test_every_kind_of_a_picture(make_worker: MakeWorker, picture: Path) -> None:
    worker = make_worker()
    for params in (Caption(), Summarize(), Copywrite()):
        job = worker.do(params, picture)
        assert job.state is JobState.SUCCEEDED
        assert told(job)[0]
        (part,) = worker.parts(job.id)
        assert part.data["how"] == "described"
        assert part.text is not None
        assert part.text.startswith("describe 160x120")
        assert worker.files(job.id) == {}
    job = worker.do(Ask(question="What is this?"), picture)
    assert told(job)[1]["sources"] == [{"page": 1}]
    (request,) = [request for request in worker.engine.requests if "What is this?" in request.turns[-1].text]
    assert request.images[0].shape == (120, 160, 3)


def test_every_kind_of_a_video(make_worker: MakeWorker, clip: Path) -> None:
    worker = make_worker()
    caption = worker.do(Caption(segment="seconds", seconds=2, frames=2), clip)
    assert caption.state is JobState.SUCCEEDED
    captions = told(caption)[1]["captions"]
    assert [(c["start"], c["end"]) for c in captions] == [(0, pytest.approx(2)), (pytest.approx(2), pytest.approx(4))]
    parts = worker.parts(caption.id)
    assert [len(part.data["times"]) for part in parts] == [2, 2]
    assert all(part.spec["start"] <= moment < part.spec["end"] for part in parts for moment in part.data["times"])
    files = worker.files(caption.id)
    assert files["captions.srt"].decode().startswith("1\n00:00:00,000 --> 00:00:02,000\ndescribe 64x48")
    assert files["captions.vtt"].decode().startswith("WEBVTT\n\n00:00:00.000 --> 00:00:02.000\n")
    with worker.context.database.read() as session:
        rows = session.execute(select(tables.Artifact.name, tables.Artifact.media_type, tables.Artifact.role))
        assert sorted(tuple(row) for row in rows) == [
            ("captions.srt", "application/x-subrip", "result"),
            ("captions.vtt", "text/vtt", "result"),
        ]
    assert caption.result is not None
    assert caption.result.artifacts == ("captions.srt", "captions.vtt")

    for params in (Ocr(), Summarize(), Ask(question="What moves?"), Copywrite()):
        job = worker.do(params, clip)
        assert job.state is JobState.SUCCEEDED, job.error
        assert told(job)[0]
        assert all("start" in part.spec for part in worker.parts(job.id))
    assert "0:00-0:02: describe 64x48" in "\n".join(worker.engine.prompts)


def test_uploads_are_read_from_the_store(make_worker: MakeWorker) -> None:
    worker = make_worker()
    stored = worker.upload(b"An uploaded owl.\n", "owl.txt")
    job = worker.do(Ocr(), f"artifact:{stored.id}")
    assert "An uploaded owl." in told(job)[0]


def test_copywriting_from_a_brief_alone_has_no_parts(make_worker: MakeWorker) -> None:
    worker = make_worker()
    job = worker.do(Copywrite(brief="a lamp for owls"))
    assert (job.state, job.parts.total) == (JobState.SUCCEEDED, 0)
    assert "a lamp for owls" in worker.engine.prompts[0]


# How a page is read.


@pytest.mark.parametrize(
    ("mode", "sheet", "how"),
    [
        ("auto", Sheet(text="A good layer."), "layer"),
        ("auto", Sheet(text="rubbish", trusted=False), "image"),
        ("auto", Sheet(text=None), "image"),
        ("image", Sheet(text="A good layer."), "image"),
        ("text", Sheet(text="rubbish", trusted=False), "layer"),
        ("text", Sheet(text=None), None),
        ("auto", Sheet(text=None, blank=True), "blank"),
        ("text", Sheet(text=None, blank=True), "blank"),
        ("image", Sheet(text="A good layer.", blank=True), "blank"),
    ],
)
def test_the_mode_says_whether_layer_or_picture_is_read(
    make_worker: MakeWorker, file: Path, mode: str, sheet: Sheet, how: str | None
) -> None:
    worker = make_worker(StandInReaders(sheet))
    job = worker.do(Ocr.model_validate({"mode": mode}), file)
    (part,) = worker.parts(job.id)
    if how is None:
        assert error_of(job)[0] == Code.PAGE_DAMAGED
        assert "no text layer" in error_of(job)[1]
        return
    assert part.data["how"] == how
    assert len(worker.engine.requests) == (1 if how == "image" else 0)
    assert part.text == {"layer": sheet.text, "blank": ""}.get(how, part.text)
    assert bool(part.text) == (how != "blank")
    if how == "image" and sheet.text and mode == "auto":
        assert part.data["layer"] == "glyphs without a Unicode map"


def test_only_the_chosen_pages_are_read(make_worker: MakeWorker, file: Path) -> None:
    worker = make_worker(StandInReaders("One.", "Two.", "Three.", "Four."))
    job = worker.do(Ocr(pages="2,4-", output="text"), file)
    assert told(job)[0] == "Two.\fFour."
    assert [(part.number, part.spec) for part in worker.parts(job.id)] == [(1, {"page": 2}), (2, {"page": 4})]


def test_a_page_with_few_words_is_described_and_its_words_are_kept(make_worker: MakeWorker, file: Path) -> None:
    worker = make_worker(StandInReaders("Fig. 7"))
    job = worker.do(Ask(question="Which figure?"), file)
    (part,) = worker.parts(job.id)
    assert part.data["how"] == "described"
    assert part.text is not None
    assert part.text.startswith("describe ")
    assert part.text.endswith("Fig. 7")


def test_a_page_in_a_script_without_spaces_is_a_page_of_text(make_worker: MakeWorker, file: Path) -> None:
    worker = make_worker(StandInReaders("夜里的猫头鹰在图书馆里看书。" * 40))
    job = worker.do(Summarize(), file)
    (part,) = worker.parts(job.id)
    assert part.data["how"] == "layer"
    assert part.text != "夜里的猫头鹰在图书馆里看书。" * 40, "a page of 560 characters is not its own digest"


# What a job says when something is wrong.


def test_one_bad_page_costs_that_page(make_worker: MakeWorker, file: Path) -> None:
    worker = make_worker(StandInReaders("One.", Sheet(error=DAMAGED), "Three."))
    job = worker.do(Ocr(output="text"), file)
    assert job.state is JobState.PARTIAL
    written, data = told(job)
    assert written == "One.\fThree."
    assert data["failed_parts"] == [{"page": 2, "code": "page_damaged", "message": DAMAGED.message, "retryable": False}]
    assert error_of(job) == ("page_damaged", f"1 of 3 parts failed; the first: {DAMAGED.message}")
    assert (job.parts.succeeded, job.parts.failed) == (2, 1)


def test_a_damaged_part_makes_a_job_partial_and_is_named(make_worker: MakeWorker, file: Path) -> None:
    engine = WatchedEngine(reply=lambda _: completion("half a page", damaged=True, warnings=["half is black"]))
    worker = make_worker(StandInReaders(Sheet()), engine=engine)
    job = worker.do(Ocr(), file)
    assert job.state is JobState.PARTIAL
    assert error_of(job) == (Code.SOURCE_DAMAGED, "1 of 1 parts are damaged; the first: half is black")


def test_where_every_part_failed_for_one_cause_the_job_says_it(make_worker: MakeWorker, file: Path) -> None:
    worker = make_worker(StandInReaders(Sheet(error=DAMAGED), Sheet(error=DAMAGED)))
    job = worker.do(Ocr(), file)
    assert (job.state, job.result) == (JobState.FAILED, None)
    assert error_of(job) == (Code.PAGE_DAMAGED, DAMAGED.message)


def test_where_causes_differ_the_job_says_the_first(make_worker: MakeWorker, file: Path) -> None:
    worker = make_worker(StandInReaders(Sheet(error=SourceError("first")), Sheet(error=DAMAGED)))
    assert error_of(worker.do(Ocr(), file)) == (Code.SOURCE_DAMAGED, "all 2 parts failed; the first: first")


@pytest.mark.parametrize(
    ("kind", "params", "named"),
    [("ocr", {"colour": 1}, "'colour'"), ("caption", {"frames": "many"}, "frames"), ("ask", {}, "question")],
)
def test_wrong_params_in_a_row_fail_the_job_at_planning(
    make_worker: MakeWorker, file: Path, kind: str, params: dict[str, Any], named: str
) -> None:
    worker = make_worker(StandInReaders("One."))
    job = worker.drive(worker.insert(kind=kind, source=str(file), params=params))
    assert (job.state, job.attempts) == (JobState.FAILED, 1)
    code, message = error_of(job)
    assert code == Code.PARAMS_INVALID
    assert named in message
    assert worker.parts(job.id) == []


def test_params_that_were_encoded_twice_are_wrong_params(make_worker: MakeWorker, file: Path) -> None:
    worker = make_worker(StandInReaders("One."))
    with worker.context.database.write() as session:
        session.execute(
            text("INSERT INTO jobs (id, kind, source, params) VALUES ('j', 'ocr', :source, :params)"),
            {"source": str(file), "params": json.dumps(json.dumps({"mode": "image"}))},
        )
    assert error_of(worker.drive("j"))[0] == Code.PARAMS_INVALID


def test_a_source_that_is_not_there_fails_the_job_at_planning(make_worker: MakeWorker, tmp_path: Path) -> None:
    worker = make_worker()
    job = worker.do(Ocr(), tmp_path / "gone.pdf")
    assert (job.state, job.attempts) == (JobState.FAILED, 1)
    assert error_of(job)[0] == Code.SOURCE_MISSING


def test_a_source_that_went_away_after_planning_fails_its_parts(make_worker: MakeWorker, file: Path) -> None:
    worker = make_worker(StandInReaders("One.", "Two."))
    job_id = worker.submit(Ocr(), file)
    assert worker.plan(job_id).state is JobState.RUNNING
    file.unlink()
    job = worker.drive(job_id)
    assert job.state is JobState.FAILED
    assert error_of(job)[0] == Code.SOURCE_MISSING
    assert [part.error.code for part in worker.parts(job_id) if part.error] == [Code.SOURCE_MISSING] * 2


def test_warnings_about_the_source_are_part_of_the_result(make_worker: MakeWorker, file: Path) -> None:
    worker = make_worker(StandInReaders("One.", warnings=("the file was damaged and has been repaired",)))
    assert told(worker.do(Ocr(), file))[1]["warnings"] == ["the file was damaged and has been repaired"]


def test_a_failure_that_may_pass_is_put_off_and_given_up_after_the_last_attempt(
    make_worker: MakeWorker, file: Path
) -> None:
    worker = make_worker(StandInReaders(Sheet()), engine=WatchedEngine(reply=failing(BUSY)), max_attempts=3)
    job_id = worker.submit(Ocr(), file)
    worker.plan(job_id)
    for attempt, wait in ((1, 2), (2, 4)):
        worker.run(job_id)
        (part,) = worker.parts(job_id)
        assert (part.state, part.attempts, part.error) == (PartState.PENDING, attempt, None)
        assert not_before(worker) == worker.clock.now + timedelta(seconds=wait)
        worker.run(job_id)  # too early: nobody may have it yet
        assert worker.parts(job_id)[0].attempts == attempt
        worker.clock.pass_time(wait)
    worker.run(job_id)
    (part,) = worker.parts(job_id)
    assert (part.state, part.attempts) == (PartState.FAILED, 3)
    job = worker.drive(job_id)
    assert (job.state, error_of(job)) == (JobState.FAILED, (Code.ENGINE_FAILED, BUSY.message))
    assert len(worker.engine.requests) == 3


def test_whether_it_may_pass_is_still_known_at_the_end(make_worker: MakeWorker, file: Path) -> None:
    """docs/errors.md: engine_failed is retryable, whether planning, a part or finishing ended with it."""
    worker = make_worker(StandInReaders(Sheet(), Sheet(error=DAMAGED)), engine=WatchedEngine(reply=failing(BUSY)))
    job = worker.do(Ocr(pages="1"), file)
    assert job.error is not None
    assert job.error.retryable
    job = worker.do(Ocr(pages="2"), file)
    assert job.error is not None
    assert not job.error.retryable


def once(error: EngineError, *, when: Callable[[Request], bool] = lambda _: True) -> Reply:
    """The engine fails with the first request that `when` picks, and is well again."""
    left = [error]
    return lambda request: left.pop() if left and when(request) else None


def test_a_failure_that_passes_costs_an_attempt_and_nothing_else(make_worker: MakeWorker, file: Path) -> None:
    engine = WatchedEngine(reply=once(BUSY, when=lambda request: int(request.images[0].max()) == 2))
    worker = make_worker(StandInReaders(Sheet(), Sheet(), Sheet()), engine=engine)
    job = worker.do(Ocr(), file)
    assert (job.state, job.attempts) == (JobState.SUCCEEDED, 2)
    assert [part.attempts for part in worker.parts(job.id)] == [1, 2, 1]


def test_finishing_that_fails_is_tried_again_and_the_parts_are_not(make_worker: MakeWorker, file: Path) -> None:
    worker = make_worker(StandInReaders(LONG))
    job_id = worker.submit(Summarize(), file)
    worker.plan(job_id)
    worker.run(job_id)
    worker.engine.reply = once(BUSY)
    worker.finish(job_id)
    assert worker.job(job_id).state is JobState.RUNNING
    worker.finish(job_id)  # too early
    assert column(worker, "tries", job_id) == 1
    assert worker.drive(job_id).state is JobState.SUCCEEDED
    assert [part.attempts for part in worker.parts(job_id)] == [1]


def test_planning_that_fails_unexpectedly_is_tried_again_then_given_up(make_worker: MakeWorker, file: Path) -> None:
    readers = StandInReaders("One.")

    def crash() -> None:
        raise RuntimeError("a defect")

    readers.on_probe = crash
    worker = make_worker(readers, max_attempts=2)
    job = worker.do(Ocr(), file)
    assert (job.state, error_of(job)) == (JobState.FAILED, (Code.INTERNAL, "unexpected RuntimeError: a defect"))
    assert [state for _, state in attempts(worker)] == [AttemptState.FAILED] * 2


both_databases = pytest.mark.parametrize(
    "database_url", ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)], indirect=True
)


@pytest.mark.parametrize(
    "answer",
    [completion("x", thing=object()), completion("x", number=float("nan")), completion("half a pair \ud800")],
    ids=["no JSON", "not a number", "no UTF-8"],
)
@both_databases
def test_a_result_that_cannot_be_stored_does_not_go_round_for_ever(
    make_worker: MakeWorker, file: Path, answer: Completion
) -> None:
    """A part that is given back without an attempt counted would be run again until the job's time is over."""
    worker = make_worker(StandInReaders(Sheet()), engine=WatchedEngine(reply=lambda _: replace(answer, lines=())))
    job_id = worker.submit(Ocr(), file)
    worker.plan(job_id)
    worker.run(job_id)
    (part,) = worker.parts(job_id)
    assert part.attempts == 1
    assert worker.drive(job_id).state.is_final


@both_databases
def test_nul_characters_are_left_out_of_what_is_stored(make_worker: MakeWorker, file: Path) -> None:
    worker = make_worker(StandInReaders("An\x00 owl.", "Night\x00."))
    job = worker.do(Ocr(output="text"), file)
    assert job.state is JobState.SUCCEEDED
    assert told(job)[0] == "An owl.\fNight."
    assert worker.parts(job.id)[0].data["lines"][0]["text"] == "An owl."
    assert worker.files(job.id) == {"text.txt": b"An owl.\fNight."}


@pytest.mark.parametrize("phase", ["planning", "running"])
@both_databases
def test_a_message_with_a_nul_does_not_keep_a_job_from_its_end(make_worker: MakeWorker, file: Path, phase: str) -> None:
    error = SourceError("damaged near \x00 here", code=Code.PAGE_DAMAGED)
    readers = StandInReaders(Sheet(error=error))

    def refuse() -> None:
        raise error

    if phase == "planning":
        readers.on_probe = refuse
    assert error_of(make_worker(readers).do(Ocr(), file)) == (Code.PAGE_DAMAGED, "damaged near  here")


def test_cleaning_reaches_keys_and_every_depth() -> None:
    dirty = {"a\x00": ["b\x00", ("c\x00", {"d": "\x00e"})], "n": 1, "none": None}
    assert clean(dirty) == {"a": ["b", ["c", {"d": "e"}]], "n": 1, "none": None}


def test_a_page_of_endless_text_is_cut_at_the_limit(make_worker: MakeWorker, file: Path) -> None:
    worker = make_worker(StandInReaders("x" * 500), limits={"max_text_chars": 100})
    job = worker.do(Ocr(), file)
    assert len(worker.parts(job.id)[0].text or "") == 100


# Being stopped.


def start_run(worker: Worker, job_id: str, begun: threading.Event) -> threading.Thread:
    """A thread that runs the slice; `begun` is set when the engine has its first request."""

    def reply(_: Request) -> None:
        begun.set()

    worker.engine.reply = reply
    return threading.Thread(target=worker.run, args=(job_id,))


def hanging(make_worker: MakeWorker) -> Worker:
    return make_worker(
        StandInReaders(Sheet(), Sheet(), Sheet()),
        engine=WatchedEngine(switches=Switches(hang=True)),
        parts_in_flight=1,
    )


def test_a_cancelled_job_stops_stores_nothing_and_holds_nothing(make_worker: MakeWorker, file: Path) -> None:
    worker, begun = hanging(make_worker), threading.Event()
    job_id = worker.submit(Ocr(), file)
    worker.plan(job_id)
    with joined(start_run(worker, job_id, begun)):
        assert begun.wait(30)
        worker.cancel(job_id)
        worker.context.heartbeat.beat()
    assert worker.job(job_id).state is JobState.CANCELLED
    assert worker.job(job_id).result is None
    assert [(part.state, part.text) for part in worker.parts(job_id)] == [(PartState.PENDING, None)] * 3
    with worker.context.database.read() as session:
        assert set(session.scalars(select(tables.Part.token))) == {None}
    assert len(worker.engine.requests) == 1
    worker.run(job_id)
    worker.finish(job_id)
    assert len(worker.engine.requests) == 1


def test_a_beat_leaves_work_alone_that_goes_on(make_worker: MakeWorker, file: Path) -> None:
    worker = make_worker(StandInReaders("One."))
    job_id = worker.submit(Ocr(), file)
    worker.plan(job_id)
    with worker.context.heartbeat.watch("no such token") as lost:
        worker.context.heartbeat.beat()
        assert lost.is_set()
    worker.run(job_id)
    assert worker.drive(job_id).state is JobState.SUCCEEDED


def test_at_shutdown_parts_are_given_back_and_no_attempt_counts(make_worker: MakeWorker, file: Path) -> None:
    worker, begun = hanging(make_worker), threading.Event()
    job_id = worker.submit(Ocr(), file)
    worker.plan(job_id)
    with joined(start_run(worker, job_id, begun)):
        assert begun.wait(30)
        worker.context.heartbeat.shut_down()
    assert [(part.state, part.attempts) for part in worker.parts(job_id)] == [(PartState.PENDING, 0)] * 3
    assert attempts(worker)[-1] == ("slice", AttemptState.LOST)
    worker.run(job_id)  # a message that still comes in is given back at once
    assert [part.attempts for part in worker.parts(job_id)] == [0, 0, 0]
    other = make_worker(StandInReaders("One.", "Two.", "Three."))
    other.clock.pass_time(100)
    other.sweep()
    while other.hear():
        pass
    assert other.job(job_id).state is JobState.SUCCEEDED


def test_at_shutdown_planning_and_finishing_are_given_back_untried(make_worker: MakeWorker, file: Path) -> None:
    readers = StandInReaders(LONG)
    first = make_worker(readers)
    job_id = first.submit(Summarize(), file)

    def stop() -> None:
        first.context.heartbeat.shut_down()
        raise StoppedError("shut down")

    readers.on_probe = stop
    first.plan(job_id)
    assert (first.job(job_id).state, column(first, "tries", job_id)) == (JobState.PENDING, 0)
    readers.on_probe = lambda: None
    second = make_worker(readers)
    second.plan(job_id)
    second.run(job_id)
    second.context.heartbeat.shut_down()
    second.finish(job_id)
    assert (second.job(job_id).state, column(second, "tries", job_id)) == (JobState.RUNNING, 0)
    third = make_worker(readers)
    third.finish(job_id)
    assert third.job(job_id).state is JobState.SUCCEEDED


@pytest.mark.parametrize("end", ["cancel", "overdue"])
def test_a_job_that_ends_while_it_is_planned_stays_ended(make_worker: MakeWorker, file: Path, end: str) -> None:
    readers = StandInReaders("One.")
    worker = make_worker(readers, job_seconds=10)
    job_id = worker.submit(Ocr(), file)

    def meanwhile() -> None:
        worker.clock.pass_time(11)
        worker.cancel(job_id) if end == "cancel" else worker.sweep()

    readers.on_probe = meanwhile
    job = worker.plan(job_id)
    assert job.state is (JobState.CANCELLED if end == "cancel" else JobState.FAILED)
    assert worker.parts(job_id) == []
    assert not worker.bell.messages


def test_a_job_that_ends_while_it_is_finished_stays_ended(make_worker: MakeWorker, file: Path) -> None:
    worker = make_worker(StandInReaders(LONG))
    job_id = worker.submit(Summarize(), file)
    worker.plan(job_id)
    worker.run(job_id)
    worker.engine.reply = lambda _: worker.cancel(job_id)
    worker.finish(job_id)
    job = worker.job(job_id)
    assert (job.state, job.result) == (JobState.CANCELLED, None)
    assert worker.files(job_id) == {}


@pytest.mark.parametrize("step", ["plan", "run", "finish"])
def test_every_use_case_may_be_called_twice(make_worker: MakeWorker, file: Path, step: str) -> None:
    worker = make_worker(StandInReaders("One.", "Two."))
    job_id = worker.submit(Ocr(), file)
    for each in ("plan", "run", "finish"):
        for _ in range(2 if each == step else 1):
            getattr(worker, each)(job_id)
    assert worker.job(job_id).state is JobState.SUCCEEDED
    assert [part.attempts for part in worker.parts(job_id)] == [1, 1]
    assert len(worker.files(job_id)) == 1
    assert [phase for phase, _ in attempts(worker)].count("slice") == 1


def test_a_message_for_a_job_that_is_not_there_is_nothing(make_worker: MakeWorker) -> None:
    worker = make_worker(StandInReaders("One."))
    plan_finish_run: tuple[Callable[[str], object], ...] = (worker.finish, worker.run)
    for use_case in plan_finish_run:
        use_case("nobody")
    from tasks.plan import plan_job

    plan_job(worker.context, "nobody")
    assert attempts(worker) == []


# The desk: one request under a stop event and a deadline.


class Slow(WatchedEngine):
    """An engine whose answer comes just as the waiting ends, or never."""

    def __init__(self, future: Future[Completion]) -> None:
        super().__init__()
        self._future = future

    def submit(self, request: Request) -> Future[Completion]:
        return self._future


def desk(worker: Worker, *, deadline_at: float = float("inf")) -> Desk[Params]:
    return Desk(
        context=worker.context,
        job=worker.job(worker.submit(Copywrite(brief="x"))),
        params=Ocr(),
        stop=threading.Event(),
        deadline_at=deadline_at,
    )


def test_an_answer_that_comes_just_as_the_waiting_ends_is_taken(make_worker: MakeWorker) -> None:
    from concurrent.futures import Future

    late: Future[Completion] = Future()
    worker = make_worker(StandInReaders(), engine=Slow(late))
    timer = threading.Timer(POLL_SECONDS, late.set_result, [completion("here")])
    timer.start()
    assert desk(worker).write("x") == "here"
    timer.join()


def test_an_engine_that_raises_a_timeout_of_its_own_is_heard(make_worker: MakeWorker) -> None:
    worker = make_worker(StandInReaders(), engine=Slow(settled(TimeoutError("the GPU"))))
    with pytest.raises(TimeoutError, match="the GPU"):
        desk(worker).write("x")


def test_an_engine_that_ignores_its_deadline_does_not_hold_the_job(make_worker: MakeWorker) -> None:
    from concurrent.futures import Future

    worker = make_worker(StandInReaders(), engine=Slow(Future()))
    with pytest.raises(EngineError) as caught:
        desk(worker, deadline_at=0).write("x")
    assert caught.value.code is Code.DEADLINE
    assert not caught.value.retryable
    assert "NIGHTOWL_PART_SECONDS" in caught.value.message


def test_an_engine_that_ignores_a_stop_does_not_hold_the_job(make_worker: MakeWorker) -> None:
    from concurrent.futures import Future

    worker = make_worker(StandInReaders(), engine=Slow(Future()))
    work = desk(worker)
    timer = threading.Timer(0.05, work.stop.set)
    with joined(timer), pytest.raises(StoppedError):
        work.write("x")


def test_what_was_written_before_the_deadline_is_kept(make_worker: MakeWorker) -> None:
    late = Completion(text="half a", finish_reason=FinishReason.DEADLINE)
    worker = make_worker(StandInReaders(), engine=WatchedEngine(reply=lambda _: late))
    assert desk(worker).write("x") == "half a"
    worker.engine.reply = lambda _: replace(late, text="")
    with pytest.raises(EngineError, match="NIGHTOWL_PART_SECONDS"):
        desk(worker).write("x")


def test_a_part_that_is_over_its_time_fails_for_good(make_worker: MakeWorker, file: Path) -> None:
    worker = make_worker(StandInReaders(Sheet()), engine=WatchedEngine(switches=Switches(hang=True)), part_seconds=0.05)
    job = worker.do(Ocr(), file)
    assert error_of(job)[0] == Code.DEADLINE
    assert worker.parts(job.id)[0].attempts == 1


@pytest.mark.parametrize(
    "probe",
    [
        Probe(media=Media.DOCUMENT, format="pdf", pages=3, warnings=("repaired",)),
        Probe(media=Media.VIDEO, format="mp4", duration_seconds=1.5, frames=15, width=64, height=48),
    ],
)
def test_what_was_probed_comes_back_from_the_row(probe: Probe) -> None:
    assert probe_from_json(json.loads(json.dumps(probe_to_json(probe)))) == probe


# The bell and the sweep.


def test_messages_are_bounded_and_the_rest_is_rung_for_later(make_worker: MakeWorker, file: Path) -> None:
    worker = make_worker(StandInReaders(*["Text."] * 10), slice_parts=2, max_messages=3)
    job_id = worker.submit(Ocr(), file)
    worker.plan(job_id)
    assert [(task, args) for task, args, _, _ in worker.bell.rung] == [(RUN_SLICE, (job_id, n)) for n in (1, 2, 3)]
    assert ring_due(worker.context) == 0
    assert worker.hear()
    assert [args for task, args, _, _ in worker.bell.rung[3:]] == [(job_id, 4)]
    while worker.hear():
        pass
    assert worker.job(job_id).state is JobState.SUCCEEDED
    assert len(worker.bell.rung) == 6


def test_messages_go_to_the_queue_of_their_engine_with_their_priority(make_worker: MakeWorker, file: Path) -> None:
    worker = make_worker(StandInReaders("One."))
    job_id = worker.submit(Ocr(), file, engine="fake", priority=5)
    plain = worker.submit(Ocr(), file)
    for each in (job_id, plain):
        worker.plan(each)
    worker.run(job_id)
    assert worker.bell.rung == [
        (RUN_SLICE, (job_id, 1), "gpu.fake", INTERACTIVE),
        (RUN_SLICE, (plain, 1), "gpu", NORMAL),
        (FINISH_JOB, (job_id,), "gpu.fake", INTERACTIVE),
    ]


@pytest.mark.parametrize("error", [OperationalError("no broker"), ConnectionRefusedError("no broker")], ids=repr)
def test_while_the_broker_is_away_marks_are_taken_back_and_nothing_is_lost(
    make_worker: MakeWorker, file: Path, error: Exception
) -> None:
    worker = make_worker(StandInReaders(*["Text."] * 4), slice_parts=1)
    worker.bell.broken, worker.bell.works_for = error, 2
    job_id = worker.submit(Ocr(), file)
    worker.plan(job_id)
    assert len(worker.bell.rung) == 2
    with worker.context.database.read() as session:
        marks = list(session.scalars(select(tables.Part.rung_at).order_by(tables.Part.number)))
    assert marks == [worker.clock.now, worker.clock.now, None, None]
    worker.bell.broken = None
    assert ring_due(worker.context) == 2
    assert worker.drive(job_id).state is JobState.SUCCEEDED


def test_a_message_that_was_lost_is_sent_again(make_worker: MakeWorker, file: Path) -> None:
    worker = make_worker(StandInReaders("One."), ring_seconds=60)
    job_id = worker.submit(Ocr(), file)
    worker.plan(job_id)
    worker.bell.messages.clear()
    worker.clock.pass_time(59)
    assert ring_again(worker.context) == 0
    worker.clock.pass_time(2)
    assert (ring_due(worker.context), ring_again(worker.context)) == (0, 1)
    assert worker.hear()
    assert worker.parts(job_id)[0].state is PartState.SUCCEEDED


def test_a_backlog_that_waits_long_is_not_sent_again_and_again(make_worker: MakeWorker, file: Path) -> None:
    worker = make_worker(StandInReaders(*["Text."] * 6), slice_parts=1, ring_seconds=60)
    worker.plan(worker.submit(Ocr(), file))
    sent = list(worker.bell.messages)
    for _ in range(5):
        worker.clock.pass_time(100)
        worker.sweep()
    assert list(worker.bell.messages) == sent


def test_only_as_many_as_are_missing_are_sent_again(make_worker: MakeWorker, file: Path) -> None:
    worker = make_worker(StandInReaders(*["Text."] * 6), slice_parts=1, ring_seconds=60)
    job_id = worker.submit(Ocr(), file)
    worker.plan(job_id)
    for _ in range(2):
        worker.bell.messages.pop()
    worker.clock.pass_time(100)
    assert ring_again(worker.context) == 2
    assert ring_again(worker.context) == 0
    assert worker.drive(job_id).state is JobState.SUCCEEDED


def test_where_the_broker_cannot_be_asked_nothing_is_sent_again(make_worker: MakeWorker, file: Path) -> None:
    worker = make_worker(StandInReaders("One."))
    worker.plan(worker.submit(Ocr(), file))
    worker.clock.pass_time(100)

    def away(queues: Collection[str]) -> int:
        raise OperationalError(f"no broker for {queues}")

    assert ring_again(replace(worker.context, queued=away)) == 0


def test_the_sweep_rings_for_a_row_that_an_application_inserted(make_worker: MakeWorker, file: Path) -> None:
    worker = make_worker(StandInReaders("One."))
    with worker.context.database.write() as session:
        session.execute(text("INSERT INTO jobs (id, kind, source) VALUES ('j', 'ocr', :source)"), {"source": str(file)})
    assert worker.sweep()
    assert worker.bell.rung == [(PLAN_JOB, ("j",), "cpu", NORMAL)]
    while worker.hear():
        pass
    assert worker.job("j").state is JobState.SUCCEEDED


def test_one_worker_sweeps_at_a_time(make_worker: MakeWorker) -> None:
    first, second = make_worker(StandInReaders(), sweep_seconds=5), make_worker(StandInReaders(), sweep_seconds=5)
    assert first.sweep()
    assert not second.sweep()
    assert first.sweep()
    second.clock.pass_time(16)
    assert second.sweep()


@pytest.mark.parametrize("phase", ["planning", "running", "finishing"])
def test_a_job_over_its_time_is_ended_by_the_sweep(make_worker: MakeWorker, file: Path, phase: str) -> None:
    worker = make_worker(StandInReaders("One.", "Two."), job_seconds=100, lease_seconds=1000)
    job_id = worker.submit(Ocr.model_validate({"password": "p"}), file)
    if phase == "planning":
        with worker.context.database.write() as session:
            from storage import jobs

            assert jobs.claim_plan(session, job_id, worker.context.claimant, max_attempts=3)
    else:
        worker.plan(job_id)
        if phase == "finishing":
            worker.run(job_id)
    worker.clock.pass_time(99)
    worker.sweep()
    assert not worker.job(job_id).state.is_final
    worker.clock.pass_time(2)
    worker.sweep()
    job = worker.job(job_id)
    assert (job.state, job.finished_at) == (JobState.FAILED, worker.clock.now)
    code, message = error_of(job)
    assert code == Code.DEADLINE
    assert "100 s" in message
    assert "NIGHTOWL_JOB_SECONDS" in message
    assert column(worker, "password", job_id) is None
    while worker.hear():
        pass
    assert worker.job(job_id) == job


def test_a_job_that_waits_has_no_time_to_be_over(make_worker: MakeWorker, file: Path) -> None:
    worker = make_worker(StandInReaders("One."), job_seconds=100)
    job_id = worker.submit(Ocr(), file)
    worker.clock.pass_time(10_000)
    worker.sweep()
    assert worker.job(job_id).state is JobState.PENDING


def test_work_of_a_dead_worker_is_done_by_another(make_worker: MakeWorker, file: Path) -> None:
    readers = StandInReaders("One.", "Two.")
    dead, alive = make_worker(readers), make_worker(readers)
    job_id = dead.submit(Ocr(output="text"), file)
    dead.plan(job_id)
    with dead.context.database.write() as session:
        from storage import parts

        claim = parts.claim(session, job_id, 1, dead.context.claimant, max_attempts=3, engine="fake", model="fake")
        assert claim is not None
    with dead.context.database.write() as session:
        parts.begin(session, claim, 1, now=dead.clock.now)
    alive.clock.pass_time(alive.context.settings.lease_seconds + 1)
    alive.sweep()
    assert alive.bell.rung[0] == (RUN_SLICE, (job_id, 1), "gpu", INTERACTIVE)  # before all that waits
    while alive.hear():
        pass
    job = alive.job(job_id)
    assert (job.state, told(job)[0]) == (JobState.SUCCEEDED, "One.\fTwo.")
    assert [part.attempts for part in alive.parts(job_id)] == [2, 1]
    assert dict(attempts(alive))["slice"] in (AttemptState.LOST, AttemptState.SUCCEEDED)


def test_a_worker_that_died_with_its_clock_ahead_does_not_keep_its_work(make_worker: MakeWorker, file: Path) -> None:
    """Nor the sweep, which it held."""
    readers = StandInReaders("One.")
    ahead, alive = make_worker(readers), make_worker(readers)
    job_id = ahead.submit(Ocr(output="text"), file)
    ahead.clock.pass_time(3600)
    assert ahead.sweep()
    with ahead.context.database.write() as session:
        from storage import jobs

        assert jobs.claim_plan(session, job_id, ahead.context.claimant, max_attempts=3) is not None
    assert alive.sweep()
    alive.clock.pass_time(alive.context.settings.lease_seconds + 1)
    assert alive.sweep()
    while alive.hear():
        pass
    assert alive.job(job_id).state is JobState.SUCCEEDED


@pytest.mark.parametrize("planned", [False, True])
def test_what_was_rung_for_with_a_clock_ahead_is_rung_for_again(
    make_worker: MakeWorker, file: Path, planned: bool
) -> None:
    """Where the message was lost: otherwise the job would wait until the clocks have caught up with the mark."""
    readers = StandInReaders("One.", "Two.")
    ahead, alive = make_worker(readers), make_worker(readers)
    job_id = alive.submit(Ocr(output="text"), file)
    if planned:
        alive.plan(job_id)
    ahead.clock.pass_time(3600)
    with ahead.context.database.write() as session:
        session.execute(update(tables.Job).values(rung_at=None))
        session.execute(update(tables.Part).values(rung_at=None))
    assert ring_due(ahead.context) == 1
    alive.bell.messages.clear()
    assert alive.sweep()
    alive.clock.pass_time(alive.context.settings.ring_seconds + 1)
    assert alive.sweep()
    while alive.hear():
        pass
    assert alive.job(job_id).state is JobState.SUCCEEDED


def test_a_part_that_was_put_off_with_a_clock_ahead_is_tried_again(make_worker: MakeWorker, file: Path) -> None:
    readers = StandInReaders(Sheet())
    ahead, alive = make_worker(readers, engine=WatchedEngine(reply=once(BUSY))), make_worker(readers)
    job_id = alive.submit(Ocr(), file)
    alive.plan(job_id)
    ahead.clock.pass_time(3600)
    ahead.run(job_id)
    assert not_before(alive) == ahead.clock.now + timedelta(seconds=2)
    assert alive.sweep()
    assert not_before(alive) == alive.clock.now
    while alive.hear():
        pass
    assert alive.job(job_id).state is JobState.SUCCEEDED


def test_a_job_that_was_put_off_with_a_clock_ahead_is_tried_again(make_worker: MakeWorker, file: Path) -> None:
    readers = StandInReaders(LONG)
    ahead, alive = make_worker(readers, engine=WatchedEngine(reply=failing(BUSY))), make_worker(readers)
    job_id = alive.submit(Summarize(), file)
    alive.plan(job_id)
    alive.run(job_id)
    ahead.clock.pass_time(3600)
    ahead.finish(job_id)
    assert column(alive, "not_before", job_id) > alive.clock.now + timedelta(minutes=59)
    assert alive.sweep()
    while alive.hear():
        pass
    assert alive.job(job_id).state is JobState.SUCCEEDED


def test_what_is_put_off_rightly_stays_so(make_worker: MakeWorker, file: Path) -> None:
    """By the longest pause that there is, and with a clock that is a little ahead."""
    worker = make_worker(StandInReaders(Sheet()))
    job_id = worker.submit(Ocr(), file)
    worker.plan(job_id)
    later = worker.clock.now + timedelta(seconds=worker.context.retry.max_seconds + 5)
    rung = worker.clock.now + timedelta(seconds=5)
    with worker.context.database.write() as session:
        session.execute(update(tables.Part).values(not_before=later, rung_at=rung))
    assert worker.sweep()
    with worker.context.database.read() as session:
        assert session.execute(select(tables.Part.not_before, tables.Part.rung_at)).one() == (later, rung)


def test_the_work_of_a_dead_worker_is_rung_for_later_where_the_broker_is_away(
    make_worker: MakeWorker, file: Path
) -> None:
    worker = make_worker(StandInReaders("One."))
    job_id = worker.submit(Ocr(output="text"), file)
    with worker.context.database.write() as session:
        from storage import jobs

        assert jobs.claim_plan(session, job_id, worker.context.claimant, max_attempts=3) is not None
    worker.bell.broken = OperationalError("no broker")
    worker.clock.pass_time(worker.context.settings.lease_seconds + 1)
    worker.sweep()
    worker.bell.broken = None
    worker.sweep()
    assert [(task, args) for task, args, _, _ in worker.bell.rung] == [(PLAN_JOB, (job_id,))]


def test_a_job_that_was_partial_and_is_tried_again_has_one_set_of_files(make_worker: MakeWorker, file: Path) -> None:
    readers = StandInReaders("One.", Sheet(error=DAMAGED))
    worker = make_worker(readers)
    job = worker.do(Ocr(output="text"), file)
    assert job.state is JobState.PARTIAL
    readers.sheets[1] = Sheet(text="Two.")
    with worker.context.database.write() as session:
        from storage import jobs

        jobs.retry(session, job.id)
    worker.clock.pass_time(10)
    worker.sweep()
    while worker.hear():
        pass
    assert (worker.job(job.id).state, told(worker.job(job.id))[0]) == (JobState.SUCCEEDED, "One.\fTwo.")
    assert worker.files(job.id) == {"text.txt": b"One.\fTwo."}


# What the kinds make of their parts.


def test_notes_over_the_context_are_merged_in_order_until_they_fit(make_worker: MakeWorker, file: Path) -> None:
    pages = [f"Page {n} speaks. " + LONG[:400] for n in range(1, 41)]
    worker = make_worker(StandInReaders(*pages), engine=WatchedEngine(context_tokens=640), slice_parts=50)
    job = worker.do(Summarize(length="short"), file)
    assert job.state is JobState.SUCCEEDED, job.error
    merges = [
        request.turns[-1].text for request in worker.engine.requests if request.max_new_tokens == summarize.MERGE_TOKENS
    ]
    assert merges
    assert [point["page"] for point in told(job)[1]["key_points"]] == list(range(1, 41))
    seen = [int(word.rstrip(":")) for prompt in merges for word in prompt.split() if word[:-1].isdigit()]
    assert seen[: len(pages)] == sorted(seen[: len(pages)])
    tokens = [
        worker.engine.count_tokens(request.turns[-1].text) + request.max_new_tokens
        for request in worker.engine.requests
    ]
    assert max(tokens) <= 640


def test_an_engine_that_does_not_shorten_ends_all_the_same(make_worker: MakeWorker, file: Path) -> None:
    chatter = " ".join(["word"] * 150)
    engine = WatchedEngine(reply=lambda request: chatter, context_tokens=512)
    worker = make_worker(StandInReaders(*[LONG] * 6), engine=engine)
    job = worker.do(Summarize(length="short"), file)
    assert job.state is JobState.SUCCEEDED, job.error
    assert len(engine.requests) < 60


def test_a_model_that_says_nothing_costs_no_page_its_place(make_worker: MakeWorker, file: Path) -> None:
    engine = WatchedEngine(reply=lambda _: "", context_tokens=512)
    worker = make_worker(StandInReaders(LONG, "A short page of few words.", Sheet(blank=True)), engine=engine)
    job = worker.do(Summarize(length="short"), file)
    assert job.state is JobState.SUCCEEDED, job.error
    points = told(job)[1]["key_points"]
    assert [point["page"] for point in points] == [1, 2]
    assert points[0]["text"] in LONG
    assert told(job)[0]


@pytest.mark.parametrize(
    "params",
    [
        Summarize(focus="a b " * 125),
        Copywrite(brief="a b c d " * 150),
        Copywrite(brief="a lamp", tone="x " * 100, audience="y " * 100),
    ],
    ids=["focus", "brief", "tone"],
)
def test_long_wishes_leave_room_for_the_text(make_worker: MakeWorker, file: Path, params: Params) -> None:
    """Params of the length that is allowed do not push a prompt over the context."""
    worker = make_worker(StandInReaders(*["Owls read here. " * 700] * 12), slice_parts=50)
    job = worker.do(params, file)
    assert job.state is JobState.SUCCEEDED, job.error


@pytest.mark.parametrize(
    "params",
    [Summarize(length="long"), Copywrite(), Ask(question="Who speaks about owls?"), Ocr(), Caption()],
    ids=lambda params: params.kind,
)
def test_the_smallest_context_that_may_be_set_is_enough_for_every_kind(
    make_worker: MakeWorker, file: Path, params: Params
) -> None:
    (smallest,) = [m.ge for m in Settings.model_fields["context_tokens"].metadata if hasattr(m, "ge")]
    engine = WatchedEngine(context_tokens=smallest)
    worker = make_worker(StandInReaders(LONG, LONG), engine=engine)
    job = worker.do(params, file)
    assert job.state is JobState.SUCCEEDED, job.error
    assert len(engine.requests) < 20
    if params.kind == "ask":
        assert told(job)[1]["sources"] != []


def test_variants_differ_and_keep_their_number_of_words(make_worker: MakeWorker) -> None:
    worker = make_worker(StandInReaders())
    params = Copywrite(brief="a lamp for owls that read at night", variants=3, max_words=6)
    job = worker.do(params)
    written, data = told(job)
    assert len(set(data["variants"])) == 3
    assert all(len(variant.removesuffix(" …").split()) <= 6 for variant in data["variants"])
    assert written == "\n\n---\n\n".join(data["variants"])
    first, *others = (request.sampling for request in worker.engine.requests)
    assert first.temperature == 0
    seeds = [sampling.seed for sampling in others if sampling.temperature > 0]
    assert len(set(seeds)) == len(seeds) >= 2
    assert told(worker.do(params))[1]["variants"] == data["variants"]


def test_an_answer_cites_the_pages_that_it_came_from(make_worker: MakeWorker, file: Path) -> None:
    pages = [LONG, LONG, "The zebra invoice has the number 4711 and is due in May.", LONG]
    worker = make_worker(StandInReaders(*pages), engine=WatchedEngine(context_tokens=520))
    job = worker.do(Ask(question=QUESTION), file)
    assert {"page": 3} in told(job)[1]["sources"]
    assert len(told(job)[1]["sources"]) < 4
    assert "The zebra invoice" in worker.engine.prompts[-1]


def test_a_blank_page_is_no_source_of_an_answer(make_worker: MakeWorker, file: Path) -> None:
    worker = make_worker(StandInReaders("The zebra invoice has the number 4711.", Sheet(blank=True)))
    job = worker.do(Ask(question=QUESTION), file)
    assert told(job)[1]["sources"] == [{"page": 1}]


def test_an_answer_that_the_source_does_not_support_becomes_a_sentence_of_it_with_its_page(
    make_worker: MakeWorker, file: Path
) -> None:
    pages = ["Owls read at night and they sleep by day.", "The zebra invoice has\nthe number 4711 this year."]
    engine = WatchedEngine(reply=lambda _: "Purple giraffes dance 99 slow waltzes below the frozen sea.")
    job = make_worker(StandInReaders(*pages), engine=engine).do(Ask(question=QUESTION), file)
    assert told(job) == (
        "The zebra invoice has the number 4711 this year.",
        {"sources": [{"page": 2}], "method": "extractive", "marks": {}},
    )


def test_a_conversation_is_told_to_the_engine_turn_by_turn(make_worker: MakeWorker, file: Path) -> None:
    worker = make_worker(StandInReaders("The zebra invoice has the number 4711."))
    turns = (
        ChatTurn(role="user", text="Hello?"),
        ChatTurn(role="assistant", text="Yes?"),
        ChatTurn(role="user", text=QUESTION),
    )
    assert worker.do(Ask(turns=turns), file).state is JobState.SUCCEEDED
    request = worker.engine.requests[-1]
    assert [(turn.role, turn.text) for turn in request.turns[:-1]] == [("user", "Hello?"), ("assistant", "Yes?")]
    assert QUESTION in request.turns[-1].text


def test_the_language_is_asked_for_in_every_kind_that_has_one(make_worker: MakeWorker, file: Path) -> None:
    worker = make_worker(StandInReaders("The owl reads at night, in the dark.", "Another page about the same owl."))
    for params in (
        Summarize(language="German"),
        Copywrite(language="German"),
        Ask(question="Who?", language="German"),
        Caption(language="German"),
    ):
        worker.engine.requests.clear()
        assert worker.do(params, file).state is JobState.SUCCEEDED
        assert "Schreibe auf Deutsch." in worker.engine.prompts[-1]
