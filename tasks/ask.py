"""Kind `ask`: a question, or a conversation, about any source.

A picture or a scene is asked directly. The pages of a document are read, and the passages that fit the question are put
before the model; the answer says which pages they came from.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from domain.errors import Code, SourceError
from domain.kinds import Kind
from tasks import grounding
from tasks.grounding import Checked
from tasks.looking import described_data, frame_facts, look, page_facts
from tasks.planning import plan_parts, where
from tasks.text import best_passages, content_words, count_words, passages, sentences
from tasks.work import Finished
from worker.engines.base import Purpose, Request, Turn
from worker.readers.base import Media

if TYPE_CHECKING:
    from domain.params import Ask
    from tasks.planning import Spec
    from tasks.work import JobWork, PartWork, Planning
    from worker.engines.base import Completion

kind = Kind.ASK
needs_source = True

ANSWER_TOKENS = 160
ANSWER_WORDS = 80
SHORT_ANSWER_WORDS = 12
FARTHER = 0.15
EVIDENCE_SHARE = 5
"""A fifth of the context holds the passages. More of them cost time and mislead a small model."""
SCENE_FRAMES = 3


def plan(work: Planning[Ask]) -> list[Spec]:
    return plan_parts(work)


def question(params: Ask) -> str:
    return params.question if params.question is not None else (params.turns or ())[-1].text


def earlier(params: Ask) -> tuple[Turn, ...]:
    return tuple(Turn(role=turn.role, text=turn.text) for turn in (params.turns or ())[:-1])


def run(work: PartWork[Ask]) -> Finished:
    if work.probe.media is Media.DOCUMENT:
        seen = look(work)
        return Finished(text=seen.text, data=seen.data)
    if work.is_video:
        frames = work.frames(count=SCENE_FRAMES)
        return _ask_about(work, frames.images, frame_facts(frames))
    page = work.page()
    return _ask_about(work, (page.image,), page_facts(page))


def _ask_about(work: PartWork[Ask], images: tuple[Any, ...], data: dict[str, Any]) -> Finished:
    asked = Turn(role="user", text=work.prompts.question(question(work.params)))
    request = Request(
        purpose=Purpose.WRITE,
        turns=(*earlier(work.params), asked),
        images=images,
        clip=work.is_video,
        max_new_tokens=ANSWER_TOKENS,
    )
    completion = work.complete(request)
    answer = Checked(text=completion.text, method="model")
    if evidence := _seen(completion):
        answer = _checked(completion.text, evidence, question(work.params), language=work.params.language)
    return Finished(text=answer.text, data={**data, **described_data(completion), "method": answer.method})


def _seen(completion: Completion) -> str:
    """What vision experts wrote down; empty for an engine that looks for itself."""
    texts = [line.text for one in completion.lines for line in one]
    names = [label.name for one in completion.labels for label in one]
    return "\n\n".join(text if text.endswith(".") else f"{text}." for text in dict.fromkeys([*texts, *names]))


def finish(work: JobWork[Ask]) -> Finished:
    answered = [part for part in work.good if part.text]
    if not answered:
        raise SourceError("nothing to answer from: every page is blank", code=Code.NO_PAGES)
    if work.probe is not None and work.probe.media is not Media.DOCUMENT and len(answered) == 1:
        data = {"sources": [where(answered[0].spec)], "method": answered[0].data.get("method", "model")}
        return Finished(text=answered[0].text or "", data=data)
    return _answer(work)


def _answer(work: JobWork[Ask]) -> Finished:
    asked, history = question(work.params), earlier(work.params)
    room = work.room(asked, *(turn.text for turn in history), new_tokens=ANSWER_TOKENS)
    budget = min(room, work.engine.context_tokens // EVIDENCE_SHARE)
    candidates = [piece for part in work.good for piece in passages(part.number, part.text or "")]
    chosen = best_passages(asked, candidates, budget=budget, count=work.engine.count_tokens)
    specs = {part.number: part.spec for part in work.good}
    evidence = "\n\n".join(piece.text for piece in chosen)
    prompt = work.prompts.answer(asked, evidence)
    turns = (*history, Turn(role="user", text=prompt))
    completion = work.complete(Request(purpose=Purpose.WRITE, turns=turns, max_new_tokens=ANSWER_TOKENS))
    answer = _checked(completion.text, evidence, asked, language=work.params.language)
    cited = [
        piece.number for piece in chosen if answer.method == "model" or answer.text in " ".join(piece.text.split())
    ]
    sources = [where(specs[number]) for number in dict.fromkeys(cited)]
    return Finished(text=answer.text, data={"sources": sources, "method": answer.method})


def _checked(answer: str, evidence: str, asked: str, *, language: str | None) -> Checked:
    """The answer, where the text supports it and it keeps to the question; else the sentence nearest to that."""
    if language is not None:
        return Checked(text=answer, method="model")  # a translation shares no words with its source
    checked = grounding.check(answer, f"{evidence}\n\n{asked}", most_words=ANSWER_WORDS, least_words=1)
    asked = " ".join(content_words(asked))
    nearest = max(sentences(evidence), key=lambda sentence: grounding.support(asked, sentence), default="")
    if checked.method == "model" and _keeps_to(checked.text, asked, nearest):
        return checked
    return replace(checked, text=nearest, method="extractive")


def _keeps_to(answer: str, asked: str, nearest: str) -> bool:
    """A short answer need not repeat the question; a long one that is farther from it than the text itself is about
    something else."""
    if count_words(answer) <= SHORT_ANSWER_WORDS:
        return True
    return grounding.support(asked, answer) >= grounding.support(asked, nearest) - FARTHER
