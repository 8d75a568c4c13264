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
    return (
        f"Here is {label} of a document:\n\n{text}\n\n"
        f"Summarize it in one or two sentences. Use only facts from the text.{about}"
    )


def join_digests(notes: str) -> str:
    return f"Notes on parts of a document, in order:\n\n{notes}\n\nMerge them into a few sentences. Keep the facts."


def summary(notes: str, params: Summarize) -> str:
    about = f" The reader cares about: {params.focus}." if params.focus else ""
    return (
        f"Here are notes on a document, part by part:\n\n{notes}\n\n"
        f"Write a summary of the document {STYLES[params.style]}, in at most {SUMMARY_WORDS[params.length]} words. "
        f"Use only facts from the notes.{about}{in_language(params.language)}"
    )


def copy(facts: str, params: Copywrite) -> str:
    lines = [f"Write {CHANNELS[params.channel]}, in at most {params.max_words} words."]
    if params.brief:
        lines.append(f"Brief: {params.brief}")
    if params.audience:
        lines.append(f"It is for: {params.audience}.")
    if params.tone:
        lines.append(f"Tone: {params.tone}.")
    if facts:
        lines.append(f"Use only these facts:\n{facts}")
    lines.append(f"Write the text only, ready to publish.{in_language(params.language)}")
    return "\n".join(lines)


def answer(question: str, evidence: str, *, language: str | None) -> str:
    return (
        f"{evidence}\n\nAnswer this question from the text above, in one to three sentences. If the text does not say, "
        f"say that it does not.\nQuestion: {question}{in_language(language)}"
    )


def synopsis(captions: str, *, language: str | None) -> str:
    return (
        f"Scenes of a video, in order:\n{captions}\n\nSay in one or two sentences what the video shows. "
        f"Use only what the scenes say.{in_language(language)}"
    )
