"""Summaries that keep to their document: citations, marks, order, bounded work, digests made once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from domain.params import Copywrite, Summarize
from domain.states import JobState
from storage import tables
from tasks import grounding, summarize
from tasks.copywrite import without_preface
from tasks.grounding import Known
from tasks.text import sentences
from tests.tasks.conftest import Sheet, StandInReaders, WatchedEngine

if TYPE_CHECKING:
    from pathlib import Path

    from domain.jobs import Job
    from tests.tasks.conftest import MakeWorker, Worker
    from worker.engines.base import Request

FILLER = "The chapter goes on about weather and roads and says little that anybody would want to repeat here. " * 4


def page(number: int) -> str:
    return f"In chapter {number} the keeper Marlow counts {1000 + number} owls near the harbour. {FILLER}"


def data_of(job: Job) -> dict[str, Any]:
    assert job.state is JobState.SUCCEEDED, job.error
    assert job.result is not None
    return dict(job.result.data)


def is_summary(request: Request) -> bool:
    return request.max_new_tokens in summarize.SUMMARY_TOKENS.values()


def saying(text: str) -> WatchedEngine:
    """Writes that as the summary; digests of its pages are their first sentence."""

    def reply(request: Request) -> str:
        prompt = request.turns[-1].text
        return text if is_summary(request) else sentences(prompt.split("\n\n", 1)[1])[0]

    return WatchedEngine(reply=reply)


def test_sentences_cite_the_pages_that_say_so(make_worker: MakeWorker, file: Path) -> None:
    engine = saying("In chapter 2 the keeper Marlow counts 1002 owls near the harbour.")
    found = data_of(
        make_worker(StandInReaders(page(1), "Foxes sleep in the old mill by day. " * 9), engine=engine).do(
            Summarize(), file
        )
    )
    assert found["method"] == "extractive", "1002 stands on no page"
    assert found["dropped"] == ["In chapter 2 the keeper Marlow counts 1002 owls near the harbour."]
    engine = saying("The keeper Marlow counts 1001 owls near the harbour.")
    file.write_bytes(b"another document")
    found = data_of(
        make_worker(StandInReaders("Foxes sleep in the old mill by day. " * 9, page(1)), engine=engine).do(
            Summarize(), file
        )
    )
    assert found["citations"] == [
        {"text": "The keeper Marlow counts 1001 owls near the harbour.", "sources": [{"page": 2}]}
    ]
    assert (found["method"], found["unsupported"], found["dropped"]) == ("model", [], [])
    assert [point["page"] for point in found["key_points"]] == [1, 2]


def test_a_name_that_stands_on_no_page_is_marked(make_worker: MakeWorker, file: Path) -> None:
    text = "The keeper Kurtz counts 1001 owls near the harbour."
    found = data_of(make_worker(StandInReaders(page(1)), engine=saying(text)).do(Summarize(), file))
    assert found["unsupported"] == [{"text": text, "numbers": [], "names": ["Kurtz"]}]


def test_a_number_in_a_translation_that_stands_on_no_page_is_marked(make_worker: MakeWorker, file: Path) -> None:
    text = "Der Wärter Marlow zählt 1001 Eulen am Hafen. Im Jahr 1987 waren es mehr."
    found = data_of(make_worker(StandInReaders(page(1)), engine=saying(text)).do(Summarize(language="de"), file))
    assert found["unsupported"] == [{"text": "Im Jahr 1987 waren es mehr.", "numbers": ["1987"], "names": []}]
    assert (found["checked"], found["citations"]) == (False, [])


def test_names_on_the_page_that_the_digest_left_out_are_known(make_worker: MakeWorker, file: Path) -> None:
    text = "The keeper Marlow counts 1001 owls near the harbour of Skerry."
    pages = page(1) + " The harbour is that of Skerry, he says to all who come by in summer."
    found = data_of(make_worker(StandInReaders(pages), engine=saying(text)).do(Summarize(), file))
    assert found["unsupported"] == []


def test_a_model_that_speaks_of_its_work_is_not_quoted() -> None:
    source = "The text has some minor changes. The changes enhance the clarity of the text and of its grammar."
    said = "I made some minor changes to the text. The changes enhance the clarity of the text."
    found = grounding.check(said, source, most_words=50)
    assert (found.text, found.dropped) == (
        "The changes enhance the clarity of the text.",
        ("I made some minor changes to the text.",),
    )
    assert grounding.check(said, f"{source} I made them.", most_words=50).text == said


@pytest.mark.parametrize(
    ("text", "numbers", "names"),
    [
        ("Owls read 12 books.", [], []),
        ("He reads 13 books.", ["13"], []),
        ("He met Kurtz.", [], ["Kurtz"]),
        ("It says: Books are read.", [], []),
        ("猫头鹰读了13本书。", ["13"], []),
        ("“Owls” and – Books – by Anna, Anna.", [], ["Anna"]),
    ],
)
def test_what_a_source_does_not_vouch_for(text: str, numbers: list[str], names: list[str]) -> None:
    found = grounding.foreign(text, Known(numbers=frozenset({"12"}), names=frozenset({"owls"})))
    assert [(one["numbers"], one["names"]) for one in found] == ([(numbers, names)] if numbers or names else [])


def test_a_book_of_300_pages_takes_a_bounded_number_of_requests_that_fit(make_worker: MakeWorker, file: Path) -> None:
    worker = make_worker(StandInReaders(*(page(number) for number in range(1, 301))), slice_parts=50)
    found = data_of(worker.do(Summarize(length="long"), file))
    requests = worker.engine.requests
    assert len(requests) <= 300 + 300 // 10, "one per page, and few merges"
    assert (
        max(worker.engine.count_tokens(r.turns[-1].text) + r.max_new_tokens for r in requests)
        <= worker.engine.context_tokens
    )
    assert [point["page"] for point in found["key_points"]] == list(range(1, 301))
    assert found["digests"] == {"model": 300} or found["digests"] == {"extractive": 300}
    before = len(requests)
    again = worker.do(Summarize(length="short", style="bullets"), file)
    assert len(worker.engine.requests) - before <= 300 // 10, "a second style costs the reduce alone"
    assert all(part.data["cached"] for part in worker.parts(again.id))
    assert data_of(again)["key_points"] == found["key_points"]


def digested_again(worker: Worker, first: Any, second: Any, file: Path) -> bool:
    worker.do(first, file)
    job = worker.do(second, file)
    return not all(part.data.get("cached") for part in worker.parts(job.id))


def test_digests_are_made_again_where_they_would_be_others(make_worker: MakeWorker, file: Path) -> None:
    worker = make_worker(StandInReaders(page(1)))
    assert not digested_again(worker, Summarize(), Copywrite(channel="ad"), file), "kinds share them"
    assert digested_again(worker, Summarize(), Summarize(focus="the harbour"), file)
    assert digested_again(worker, Summarize(), Summarize(language="de"), file)
    other = make_worker(StandInReaders(page(1)), engine=WatchedEngine(context_tokens=1024))
    assert digested_again(other, Summarize(), Summarize(length="short"), file) is False
    assert other.engine.requests, "another engine digests anew"
    file.write_bytes(b"other content")
    assert digested_again(worker, Summarize(length="long"), Summarize(), file) is False
    assert "cached" not in worker.parts(worker.do(Summarize(focus="new"), file).id)[0].data
    assert "cached" not in worker.parts(worker.do(Summarize(style="bullets"), file, fresh=True).id)[0].data


def test_digests_go_with_the_job_that_made_them(make_worker: MakeWorker, file: Path) -> None:
    worker = make_worker(StandInReaders(page(1), Sheet(blank=True)))
    job = worker.do(Summarize(), file)
    with worker.context.database.write() as session:
        assert session.query(tables.Digest).count() == 2
        session.delete(session.get_one(tables.Job, job.id))
    with worker.context.database.read() as session:
        assert session.query(tables.Digest).count() == 0
    assert not worker.parts(worker.do(Summarize(), file).id)[0].data.get("cached")


def test_a_merge_that_invents_becomes_sentences_of_its_notes(make_worker: MakeWorker, file: Path) -> None:
    def reply(request: Request) -> str | None:
        if request.max_new_tokens == summarize.MERGE_TOKENS:
            return "Purple giraffes dance 99 slow waltzes below the frozen sea with their cousins."
        return None

    engine = WatchedEngine(reply=reply, context_tokens=640)
    worker = make_worker(StandInReaders(*(page(number) for number in range(1, 31))), engine=engine, slice_parts=50)
    data_of(worker.do(Summarize(length="short"), file))
    (last,) = [request.turns[-1].text for request in engine.requests if is_summary(request)]
    assert "giraffes" not in last
    assert "owls near the harbour" in last


def written(*texts: str) -> WatchedEngine:
    left = iter(texts)
    return WatchedEngine(reply=lambda _: next(left))


def copy(make_worker: MakeWorker, engine: WatchedEngine, **params: Any) -> dict[str, Any]:
    return data_of(
        make_worker(StandInReaders(), engine=engine).do(Copywrite(brief="a lamp for owls, 40 euros", **params))
    )


def test_variants_that_are_too_alike_are_written_again_and_measured(make_worker: MakeWorker) -> None:
    one, other = "A lamp for owls that read.", "Read by night with this small lamp of ours."
    engine = written(one, "A lamp for owls that read!", other)
    found = copy(make_worker, engine, variants=2)
    assert found["variants"] == [one, other]
    assert found["difference"] > 0.5
    seeds = [(r.sampling.seed, r.sampling.temperature) for r in engine.requests]
    assert len(set(seeds)) == 3
    assert seeds[2][1] > seeds[1][1] > 0


def test_an_engine_that_repeats_itself_ends_and_the_measure_says_so(make_worker: MakeWorker) -> None:
    engine = WatchedEngine(reply=lambda _: "A lamp for owls.")
    found = copy(make_worker, engine, variants=2)
    assert (found["difference"], len(engine.requests)) == (0.0, 4)
    assert copy(make_worker, WatchedEngine(reply=lambda _: "A lamp."))["difference"] is None


def test_the_limits_of_the_channel_hold(make_worker: MakeWorker) -> None:
    long = "Lamps for owls are warm and plain and kind to the eye at night. " * 9 + "#owl #lamp #night #read #warm"
    found = copy(make_worker, written(long), channel="social", max_words=500)
    (text,), (fitted,) = found["variants"], found["fitted"]
    assert len(text) <= 280
    assert fitted == {"words": len(text.split()), "characters": len(text), "hashtags": 0, "cut": True}
    tags = copy(make_worker, written("A lamp. #owl #lamp #night #read"), channel="social")
    assert tags["variants"] == ["A lamp. #owl #lamp #night"]
    inside = copy(make_worker, written("Our #lamp is number #1 for every owl."), channel="press")
    assert inside["variants"] == ["Our lamp is number #1 for every owl."]
    assert copy(make_worker, written("A lamp for owls."), channel="ad")["fitted"][0]["cut"] is False


def test_claims_with_foreign_numbers_or_names_are_marked(make_worker: MakeWorker) -> None:
    text = "A lamp for owls at 40 euros. A lamp for owls at 50 euros. A lamp for owls by Acme."
    assert copy(make_worker, written(text))["unsupported"] == [
        ["A lamp for owls at 50 euros.", "A lamp for owls by Acme."]
    ]
    assert copy(make_worker, written("1. A lamp for owls."))["unsupported"] == [[]], (
        "the number of a list claims nothing"
    )
    german = copy(make_worker, written("Eine Lampe für Eulen. Nur 50 Euro."), language="de")
    assert german["unsupported"] == [["Nur 50 Euro."]], "another language shares only numbers with its source"


@pytest.mark.parametrize(
    ("language", "says"),
    [
        ("zh", "产品"),
        ("de", "Produkt"),
        ("fr", "produit"),
        ("es", "product"),
        ("ja", "商品"),
        ("ko", "제품"),
        ("pt", "produto"),
    ],
)
def test_copy_is_asked_for_in_the_language_of_the_copy(make_worker: MakeWorker, language: str, says: str) -> None:
    engine = WatchedEngine(reply=lambda _: "x.")
    copy(make_worker, engine, language=language)
    from tasks import prompts

    known = language in prompts.LANGUAGES
    prompt = engine.prompts[-1]
    assert (says.lower() in prompt.lower()) if known else "Write in" in prompt


@pytest.mark.parametrize(
    ("written", "copied"),
    [
        ("Sure, here is a post:\n\nA lamp for owls.", "A lamp for owls."),
        ("Subject: A lamp\n\nDear owls, it is here.", "Subject: A lamp\n\nDear owls, it is here."),
        ("A lamp for owls:", "A lamp for owls:"),
        ("当然，这是文案：\n猫头鹰的灯。", "猫头鹰的灯。"),
    ],
)
def test_what_a_model_says_before_the_copy_is_left_out(written: str, copied: str) -> None:
    assert without_preface(written) == copied


def test_bullets_are_cited_one_by_one(make_worker: MakeWorker, file: Path) -> None:
    text = "- The keeper Marlow counts 1001 owls near the harbour.\n\n- The chapter goes on about weather and roads."
    found = data_of(make_worker(StandInReaders(page(1)), engine=saying(text)).do(Summarize(style="bullets"), file))
    assert [one["text"] for one in found["citations"]] == ["The keeper Marlow counts 1001 owls near the harbour."]
