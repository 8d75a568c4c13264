"""Turns and media as the prompt text that mPLUG-Owl was trained on.

    The following is a conversation between a curious human and AI assistant. …
    Human: <image>
    Human: What is unusual about this image?
    AI: It floats.
    Human: Why?
    AI:␠

One line per medium, all of them before the first turn; the last line is open and ends in one space, where the answer
begins. The form is that of the public README and training code of 2023 (X-PLUG/mPLUG-Owl at 0f3068f). "Human" and "AI"
stay English in every language: that code has no other words for the multilingual checkpoints either, so they are taken
to have been trained with these (inferred; the training data are not public).

What users, documents and hints say is defused: it can neither open a turn, nor bring a medium in, nor end the text.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from worker.engines.base import Turn

SYSTEM = (
    "The following is a conversation between a curious human and AI assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions."
)
IMAGE, VIDEO = "<image>", "<|video|>"
STOP = ("\nHuman:", "\nAI:")
"""Strings that end an answer: there the model begins to speak for the human, or answers itself. The original has none;
a checkpoint that misses its end token goes on with the human's next question."""

_SPEAKERS = {"user": "Human", "assistant": "AI"}
_OPENING = re.compile(r"^(?=[^\S\n]*(?:human|ai)[^\S\n]*:)", re.IGNORECASE | re.MULTILINE)
# The media, and the special tokens of the LLaMA and BLOOM tokenizers, which know them in the middle of a text too.
_MARK = re.compile(r"<(?=image>|\|video\|>|/?s>|unk>|pad>)")


def render(turns: Sequence[Turn], *, images: int = 0, videos: int = 0, hint: str = "", system: str = SYSTEM) -> str:
    """The prompt for an answer to the turns, which end with the user's. Images stand before videos, each kind in the
    order of its list; `hint` stands at the head of the last turn, on a line of its own.

    Raises:
        ValueError: the last turn is not the user's, or a count is negative.
    """
    if not turns or turns[-1].role != "user":
        raise ValueError("the turns of a conversation end with the user's")
    if images < 0 or videos < 0:
        raise ValueError(f"a conversation cannot have {images} images and {videos} videos")
    texts = [defused(turn.text) for turn in turns]
    texts[-1] = "\n".join(filter(None, (defused(hint), texts[-1])))
    media = [f"Human: {marker}" for marker in (*[IMAGE] * images, *[VIDEO] * videos)]
    said = [f"{_SPEAKERS[turn.role]}: {text}" for turn, text in zip(turns, texts, strict=True)]
    return "\n".join([system, *media, *said, "AI: "])


def defused(text: str) -> str:
    """A text that means the same to a reader and nothing to the prompt: a space after the < of a marker, and a > of
    quotation before a line that begins as a turn does. Line ends become "\\n"; the ends are stripped."""
    lines = "\n".join(text.splitlines()).strip()
    return _OPENING.sub("> ", _MARK.sub("< ", lines))
