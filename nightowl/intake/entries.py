"""What an archive's reader says of each entry, before anybody decided whether to take it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from domain.errors import Code
    from nightowl.intake.bounds import Readable


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A file in an archive. Read `content` before the next entry is asked for. `size` is what the archive claims."""

    name: str
    content: Readable
    size: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """An entry that is not taken: a link, a device, an encrypted or broken one."""

    name: str
    code: Code
    why: str
    size: int | None = None
