"""Kind `caption`: one sentence per segment of a video with its times, a synopsis, SRT and VTT.

Neighbouring segments that say the same are one caption.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from domain.kinds import Kind
from tasks import grounding, subtitles
from tasks.grounding import Checked
from tasks.looking import describe, describe_scene, described_data, frame_facts, page_facts
from tasks.planning import plan_parts, where
from tasks.summarize import reduce_notes
from tasks.text import limit_words, words
from tasks.work import Finished
from worker.readers.base import Segmenting

if TYPE_CHECKING:
    from collections.abc import Sequence

    from domain.jobs import Part
    from domain.params import Caption
    from tasks.planning import Spec
    from tasks.work import JobWork, PartWork, Planning

kind = Kind.CAPTION
needs_source = True

SYNOPSIS_TOKENS = 120
SYNOPSIS_WORDS = 80
LEAST_SYNOPSIS_WORDS = 12
"""A shorter sentence says less than the captions do."""
SAME_MOMENT_SECONDS = 0.002
"""Segments touch; what stands between them was a part that failed."""


def plan(work: Planning[Caption]) -> list[Spec]:
    return plan_parts(work, how=Segmenting(mode=work.params.segment, seconds=work.params.seconds))


def run(work: PartWork[Caption]) -> Finished:
    return _run_segment(work) if work.is_video else _run_page(work)


def _run_segment(work: PartWork[Caption]) -> Finished:
    frames = work.frames(count=work.params.frames)
    completion = describe_scene(work, frames)
    return Finished(
        text=completion.text, data={**described_data(completion), **where(work.part.spec), **frame_facts(frames)}
    )


def _run_page(work: PartWork[Caption]) -> Finished:
    page = work.page()
    if page.blank:
        return Finished(text="", data={**page_facts(page), "how": "blank", "blank": True})
    completion = describe(work, page.image)
    return Finished(text=completion.text, data={**page_facts(page), **described_data(completion)})


def finish(work: JobWork[Caption]) -> Finished:
    """The synopsis is the text; the captions with their times are in data and, for a video, in SRT and VTT."""
    captions = merged(work.good)
    synopsis = _synopsis(work)
    cues = [
        subtitles.Cue(start=caption["start"], end=caption["end"], text=caption["text"])
        for caption in captions
        if caption["text"] and "start" in caption
    ]
    files = (
        ("captions.srt", "application/x-subrip", subtitles.to_srt(cues).encode()),
        ("captions.vtt", "text/vtt", subtitles.to_vtt(cues).encode()),
    )
    is_video = any("start" in part.spec for part in work.parts)
    data = {"captions": captions, "method": synopsis.method}
    return Finished(text=synopsis.text, data=data, files=files if is_video else ())


def merged(parts: Sequence[Part]) -> list[dict[str, Any]]:
    """What each part says, with its place, its text on screen and the numbers of its parts; neighbouring segments that
    say the same are one."""
    captions: list[dict[str, Any]] = []
    for part in parts:
        caption = {**where(part.spec), "text": part.text or "", "parts": [part.number]}
        if seen := part.data.get("text_seen"):
            caption["text_seen"] = list(seen)
        if captions and _continues(caption, captions[-1]):
            _join(captions[-1], caption)
        else:
            captions.append(caption)
    return captions


def _continues(caption: dict[str, Any], last: dict[str, Any]) -> bool:
    """Said right after the last one, in the same words."""
    follows = "start" in caption and abs(caption["start"] - last["end"]) < SAME_MOMENT_SECONDS
    return follows and bool(caption["text"]) and words(caption["text"]) == words(last["text"])


def _join(last: dict[str, Any], caption: dict[str, Any]) -> None:
    last["end"] = caption["end"]
    last["parts"] += caption["parts"]
    if texts := [*last.get("text_seen", ()), *caption.get("text_seen", ())]:
        last["text_seen"] = list(dict.fromkeys(texts))


def _synopsis(work: JobWork[Caption]) -> Checked:
    captions = [part.text for part in work.good if part.text]
    distinct = list(dict.fromkeys(captions))
    if len(distinct) < 2:
        return Checked(text=distinct[0] if distinct else "", method="extractive")
    notes = reduce_notes(work, distinct, budget=work.room(new_tokens=SYNOPSIS_TOKENS))
    prompt = work.prompts.synopsis("\n".join(f"- {note}" for note in notes))
    written = work.write(prompt, max_new_tokens=SYNOPSIS_TOKENS)
    if work.params.language is not None:
        return Checked(text=written, method="model")  # a translation shares no words with its source
    source = "\n\n".join(distinct)
    checked = grounding.check(written, source, most_words=SYNOPSIS_WORDS, least_words=LEAST_SYNOPSIS_WORDS)
    if checked.method == "model":
        return checked
    return replace(checked, text=limit_words(" ".join(distinct), SYNOPSIS_WORDS))
