"""Members that stay where they are: files of this machine, and URLs that the workers open."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """`file` is the local file, or else `url` where it lies. `stamp` tells one version at a URL from another.

    `params` are of this member alone, not yet checked.
    """

    path: str
    file: Path | None = None
    url: str | None = field(default=None, repr=False)
    stamp: str | None = field(default=None, repr=False)
    size: int | None = None
    params: Mapping[str, Any] | None = None
