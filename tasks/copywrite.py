"""Kind `copywrite`: facts from every part of the source, or a brief alone, then variants of a text for a channel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from domain.errors import Code, ParamsError, SourceError
from domain.kinds import Kind
from tasks import grounding
from tasks.looking import look
from tasks.planning import plan_parts
from tasks.summarize import digest, reduce_notes
from tasks.text import count_words, limit_words, sentences
from tasks.work import Finished
from worker.engines.base import Sampling

if TYPE_CHECKING:
    from domain.params import Copywrite
    from tasks.planning import Spec
    from tasks.work import JobWork, PartWork, Planning

kind = Kind.COPYWRITE
needs_source = False

TOKENS_PER_WORD = 2
LEAST_CLAIM = 0.5
"""Copy may use words of its own; a sentence with fewer of the source's is marked as unsupported."""
TEMPERATURE = 0.7
"""Of the second and later variants; the first is greedy, so that it is the same on every run."""


def plan(work: Planning[Copywrite]) -> list[Spec]:
    return plan_parts(work)


def check(params: Copywrite, *, has_source: bool) -> None:
    """Raises ParamsError."""
    if not has_source and not params.brief:
        raise ParamsError("copywrite needs a source or the param brief")


def run(work: PartWork[Copywrite]) -> Finished:
    seen = look(work)
    digested = digest(work, seen.text, where=work.prompts.label(work.part.spec), focus=work.params.brief)
    return Finished(text=digested.text, data={**seen.data, "words": count_words(seen.text), "method": digested.method})


def finish(work: JobWork[Copywrite]) -> Finished:
    facts = [part.text for part in work.good if part.text]
    if work.parts and not facts and not work.params.brief:
        raise SourceError("nothing to write about: every page is blank and there is no brief", code=Code.NO_PAGES)
    tokens = min(work.params.max_words * TOKENS_PER_WORD + 32, work.engine.context_tokens // 2)
    if facts:
        wishes = (work.params.brief, work.params.tone, work.params.audience)
        room = work.room(*wishes, new_tokens=tokens)
        facts = reduce_notes(work, facts, budget=room)
    variants = [_variant(work, "\n".join(facts), number, tokens) for number in range(work.params.variants)]
    text = variants[0] if len(variants) == 1 else "\n\n---\n\n".join(variants)
    unsupported = [claims(variant, facts, work.params.brief) for variant in variants]
    return Finished(
        text=text,
        data={"variants": variants, "unsupported": unsupported, "channel": work.params.channel, "facts": facts},
    )


def claims(variant: str, facts: list[str], brief: str | None) -> list[str]:
    """The sentences of a variant whose numbers, or most of whose words, stand in neither source nor brief."""
    source = "\n".join([*facts, brief or ""])
    return [
        sentence
        for sentence in sentences(variant)
        if grounding.has_foreign_numbers(sentence, source) or grounding.support(sentence, source) < LEAST_CLAIM
    ]


def _variant(work: JobWork[Copywrite], facts: str, number: int, tokens: int) -> str:
    sampling = Sampling(temperature=TEMPERATURE, top_p=0.95, seed=number) if number else Sampling()
    written = work.write(work.prompts.copy(facts, work.params), max_new_tokens=tokens, sampling=sampling)
    return limit_words(written, work.params.max_words)
