"""What the kind caption makes of its segments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from domain.jobs import Part
from domain.params import Caption
from domain.states import PartState
from tasks import caption
from tests.tasks.conftest import WatchedEngine
from worker.engines.base import Purpose

if TYPE_CHECKING:
    from pathlib import Path

    from tests.tasks.conftest import MakeWorker


def test_neighbouring_segments_that_say_the_same_are_one_caption(make_worker: MakeWorker, clip: Path) -> None:
    said = iter(("A owl sits.", "a owl sits", "It flies.", "A owl sits."))
    engine = WatchedEngine(reply=lambda request: next(said) if request.purpose is Purpose.DESCRIBE else None)
    worker = make_worker(engine=engine, parts_in_flight=1)
    job = worker.do(Caption(segment="seconds", seconds=1), clip)
    assert job.result is not None
    captions = job.result.data["captions"]
    assert [(round(c["start"]), round(c["end"]), c["text"], c["parts"]) for c in captions] == [
        (0, 2, "A owl sits.", [1, 2]),
        (2, 3, "It flies.", [3]),
        (3, 4, "A owl sits.", [4]),
    ]
    assert worker.files(job.id)["captions.srt"].decode().count("-->") == 3
    assert [part.text for part in worker.parts(job.id)][:2] == ["A owl sits.", "a owl sits"], (
        "the parts stay as they are"
    )


def test_text_on_screen_stands_with_its_caption() -> None:
    parts = [
        done_part(1, {"start": 0, "end": 1}, "A card.", text_seen=["Midroll"]),
        done_part(2, {"start": 1, "end": 2}, "A card.", text_seen=["Midroll", "ad test"]),
        done_part(3, {"start": 2, "end": 3}, "Dark."),
    ]
    first, second = caption.merged(parts)
    assert first["text_seen"] == ["Midroll", "ad test"]
    assert (first["start"], first["end"], first["parts"]) == (0, 2, [1, 2])
    assert "text_seen" not in second
    assert [one["parts"] for one in caption.merged([parts[0], parts[2]])] == [[1], [3]]


def done_part(number: int, spec: dict[str, Any], words: str, **data: Any) -> Part:
    return Part(job_id="j", number=number, slice=1, state=PartState.SUCCEEDED, spec=spec, text=words, data=data)
