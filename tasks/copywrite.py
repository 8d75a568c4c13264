"""Kind `copywrite`: facts from every part of the source, or a brief alone, then variants of a text for a channel."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

from domain.errors import Code, ParamsError, SourceError
from domain.kinds import Kind
from tasks import grounding
from tasks.channels import Fitted, fit
from tasks.planning import plan_parts
from tasks.summarize import digest_part, known_of, reduce_notes
from tasks.text import alike, count_words, sentences
from tasks.work import Finished
from worker.engines.base import Sampling

if TYPE_CHECKING:
    from collections.abc import Sequence

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
PREFACE_WORDS = 15
MOST_ALIKE, MOST_TRIES = 0.8, 3
"""A variant that has more words in common with an earlier one, in the same order, is written anew, so often."""


def plan(work: Planning[Copywrite]) -> list[Spec]:
    return plan_parts(work)


def check(params: Copywrite, *, has_source: bool) -> None:
    """Raises ParamsError."""
    if not has_source and not params.brief:
        raise ParamsError("copywrite needs a source or the param brief")


def run(work: PartWork[Copywrite]) -> Finished:
    return digest_part(work, focus=work.params.brief)


def finish(work: JobWork[Copywrite]) -> Finished:
    facts = [part.text for part in work.good if part.text]
    if work.parts and not facts and not work.params.brief:
        raise SourceError("nothing to write about: every page is blank and there is no brief", code=Code.NO_PAGES)
    tokens = min(work.params.max_words * TOKENS_PER_WORD + 32, work.engine.context_tokens // 2)
    told = facts
    if facts:
        wishes = (work.params.brief, work.params.tone, work.params.audience)
        room = work.room(*wishes, new_tokens=tokens)
        told = reduce_notes(work, facts, budget=room)
    written = _variants(work, "\n".join(told), tokens)
    variants = [one.text for one in written]
    unsupported = [claims(variant, facts, work) for variant in variants]
    data = {
        "variants": variants,
        "unsupported": unsupported,
        "channel": work.params.channel,
        "facts": told,
        "fitted": [one.to_json() for one in written],
        "difference": difference(variants),
    }
    return Finished(text=variants[0] if len(variants) == 1 else "\n\n---\n\n".join(variants), data=data)


def claims(variant: str, facts: Sequence[str], work: JobWork[Copywrite]) -> list[str]:
    """The sentences of a variant whose numbers or names, or most of whose words, stand in neither source nor brief.

    Copy in another language than its source shares only numbers with it, so only these are held against it.
    """
    source = "\n".join([*facts, work.params.brief or ""])
    vouched = known_of(work.good, also=work.params.brief or "")
    translated = work.params.language is not None
    marked = {one["text"] for one in grounding.foreign(variant, vouched, with_names=not translated)}
    return [
        sentence
        for sentence in sentences(variant)
        if any(character.isalpha() for character in sentence)  # "1." of a list claims nothing
        if sentence in marked or (not translated and grounding.support(sentence, source) < LEAST_CLAIM)
    ]


def _variants(work: JobWork[Copywrite], facts: str, tokens: int) -> list[Fitted]:
    """As many as asked for. One that is too like an earlier one is written again, at another seed and warmer."""
    done: list[Fitted] = []
    for number in range(work.params.variants):
        tries = [_variant(work, facts, number, tokens)]
        while len(tries) < MOST_TRIES and _likeness(tries[-1].text, done) > MOST_ALIKE:
            tries.append(_variant(work, facts, number + work.params.variants * len(tries), tokens))
        done.append(min(tries, key=lambda one: _likeness(one.text, done)))
    return done


def _likeness(text: str, others: Sequence[Fitted]) -> float:
    return max((alike(text, other.text) for other in others), default=0.0)


def difference(variants: Sequence[str]) -> float | None:
    """How far the two variants that are most alike are from each other, 0 (the same words) to 1; None for one alone."""
    pairs = list(combinations(variants, 2))
    return round(1 - max(alike(one, other) for one, other in pairs), 4) if pairs else None


def _variant(work: JobWork[Copywrite], facts: str, number: int, tokens: int) -> Fitted:
    warmer = TEMPERATURE + 0.15 * (number // work.params.variants)
    sampling = Sampling(temperature=warmer, top_p=0.95, seed=number) if number else Sampling()
    written = work.write(work.prompts.copy(facts, work.params), max_new_tokens=tokens, sampling=sampling)
    return fit(without_preface(written), channel=work.params.channel, max_words=work.params.max_words)


def without_preface(written: str) -> str:
    """Without "Sure, here is a post:", a short first paragraph that ends with a colon and has the copy after it."""
    head, _, rest = written.strip().partition("\n")
    is_preface = head.rstrip("* ").endswith((":", "：")) and count_words(head) <= PREFACE_WORDS
    return rest.strip() if is_preface and rest.strip() else written
