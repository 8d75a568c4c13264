"""Files made to hurt a reader: small programs that write bombs, loops and lies; none is kept.

`cases()` lists them; each says how it may end. `python -m tests.readers.peaks` runs them all and prints what each cost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

OK = "ok"
"""The end of a file that is read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A hostile file. `ends` are the ways in which it may end: "ok", or codes of domain/errors.py.

    `heavy` ones take seconds or hundreds of megabytes to make or to read; the tests leave them to `peaks`.
    """

    name: str
    make: Callable[[], bytes]
    ends: frozenset[str]
    heavy: bool = False


_CASES: list[Case] = []


def case(name: str, ends: str, *, heavy: bool = False) -> Callable[[Callable[[], bytes]], Callable[[], bytes]]:
    """Registers the function that makes a file. `ends` has the ways in which it may end, separated by spaces."""

    def register(make: Callable[[], bytes]) -> Callable[[], bytes]:
        _CASES.append(Case(name=name, make=make, ends=frozenset(ends.split()), heavy=heavy))
        return make

    return register


def cases() -> tuple[Case, ...]:
    from tests.readers.hostile import clips, containers, documents, odd, pictures, texts

    assert all((clips, containers, documents, odd, pictures, texts))  # imported for what they register
    names = [made.name for made in _CASES]
    assert len(set(names)) == len(names)
    return tuple(_CASES)
