"""The wording of prompts, in one place. Short and plain: small models follow one instruction at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from domain.params import Copywrite, Summarize

READ_PAGE = "Write down all the text in this picture, line by line, and nothing else."
DESCRIBE_PICTURE = "Describe this picture in one or two sentences. Say only what is there."
DESCRIBE_SCENE = "These are frames of one scene of a video, in order. Say in one sentence what the scene shows."

SUMMARY_WORDS = {"short": 50, "medium": 120, "long": 300}
STYLES = {
    "paragraph": "as one paragraph",
    "bullets": "as a list of short points, each on a line that begins with a dash",
    "executive": "for a busy manager: the main finding first, then what matters most",
}
CHANNELS = {
    "product_page": "text for a product page",
    "email": "a short e-mail with a subject line",
    "social": "a post for social media",
    "ad": "a short advertisement",
    "press": "the opening of a press release",
}


def in_language(language: str | None) -> str:
    return f" Write in {language}." if language else ""


def digest(text: str, *, label: str, focus: str | None) -> str:
    about = f" Keep what matters for: {focus}." if focus else ""
    return f"Summarize {label} of a document in two sentences, with facts from the text only.{about}\n\n{text}"


def join_digests(notes: str) -> str:
    return f"Merge these notes on parts of a document into a few sentences. Keep the facts.\n\n{notes}"


def summary(notes: str, params: Summarize) -> str:
    about = f" The reader cares about: {params.focus}." if params.focus else ""
    return (
        f"Summarize a document from these notes on its parts, {STYLES[params.style]}, in at most "
        f"{SUMMARY_WORDS[params.length]} words. Use only facts from the notes.{about}{in_language(params.language)}"
        f"\n\n{notes}"
    )


def copy(facts: str, params: Copywrite) -> str:
    tone = f" in a {params.tone} tone" if params.tone else ""
    audience = f" for {params.audience}" if params.audience else ""
    given = "\n".join(text for text in (params.brief, facts) if text)
    return (
        f"Product facts: {given}\n\nWrite {CHANNELS[params.channel]}{audience}{tone}, in at most "
        f"{params.max_words} words. Use only these facts.{in_language(params.language)}"
    )


def answer(question: str, evidence: str, *, language: str | None) -> str:
    return (
        f"Answer the question in one or two sentences, with facts from the text only.{in_language(language)}\n\n"
        f"Text: {evidence}\n\nQuestion: {question}"
    )


def synopsis(captions: str, *, language: str | None) -> str:
    return f"Say in one or two sentences what this video shows.{in_language(language)} Its scenes:\n\n{captions}"
