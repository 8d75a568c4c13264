"""The five kinds of job. Apart from their params (domain/params.py), so that naming a kind loads no pydantic."""

from __future__ import annotations

from enum import StrEnum


class Kind(StrEnum):
    SUMMARIZE = "summarize"
    OCR = "ocr"
    COPYWRITE = "copywrite"
    CAPTION = "caption"
    ASK = "ask"
