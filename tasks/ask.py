"""Kind `ask`: a question, or a conversation, about any source.

A picture or a scene is asked directly. The pages of a document are read, and the passages that fit the question are put
before the model; the answer says which pages they came from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from domain.errors import Code, SourceError
from domain.kinds import Kind
from tasks import prompts
from tasks.looking import frame_facts, look, page_facts
from tasks.planning import label, plan_parts, where
from tasks.summarize import PROMPT_TOKENS
from tasks.text import best_passages, passages
from tasks.work import Finished
from worker.engines.base import Purpose, Request, Turn
from worker.readers.base import Media

if TYPE_CHECKING:
    from domain.params import Ask
    from tasks.planning import Spec
    from tasks.work import JobWork, PartWork, Planning

kind = Kind.ASK
needs_source = True

ANSWER_TOKENS = 200
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
    asked = Turn(role="user", text=question(work.params) + prompts.in_language(work.params.language))
    request = Request(
        purpose=Purpose.WRITE, turns=(*earlier(work.params), asked), images=images, max_new_tokens=ANSWER_TOKENS
    )
    completion = work.complete(request)
    return Finished(text=completion.text, data={**data, "how": "image", **completion.facts})


def finish(work: JobWork[Ask]) -> Finished:
    answered = [part for part in work.good if part.text]
    if not answered:
        raise SourceError("nothing to answer from: every page is blank", code=Code.NO_PAGES)
    if work.probe is not None and work.probe.media is not Media.DOCUMENT and len(answered) == 1:
        return Finished(text=answered[0].text or "", data={"sources": [where(answered[0].spec)]})
    return _answer(work)


def _answer(work: JobWork[Ask]) -> Finished:
    asked, history = question(work.params), earlier(work.params)
    spent = sum(work.engine.count_tokens(text) for text in (asked, *(turn.text for turn in history)))
    budget = work.engine.context_tokens - ANSWER_TOKENS - PROMPT_TOKENS - spent
    candidates = [piece for part in work.good for piece in passages(part.number, part.text or "")]
    chosen = best_passages(asked, candidates, budget=budget, count=work.engine.count_tokens)
    specs = {part.number: part.spec for part in work.good}
    evidence = "\n\n".join(f"[{label(specs[piece.number])}] {piece.text}" for piece in chosen)
    prompt = prompts.answer(asked, evidence, language=work.params.language)
    turns = (*history, Turn(role="user", text=prompt))
    completion = work.complete(Request(purpose=Purpose.WRITE, turns=turns, max_new_tokens=ANSWER_TOKENS))
    numbers = dict.fromkeys(piece.number for piece in chosen)
    return Finished(text=completion.text, data={"sources": [where(specs[number]) for number in numbers]})
