"""Which members are wanted, by their paths."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatch


@dataclass(frozen=True, slots=True)
class Filter:
    """Patterns of whole paths, where `*` takes `/` too. Nothing in `include` means everything."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def includes(self, path: str) -> bool:
        return not self.include or any(fnmatch(path, pattern) for pattern in self.include)

    def excludes(self, path: str) -> bool:
        return any(fnmatch(path, pattern) for pattern in self.exclude)
