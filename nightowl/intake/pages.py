"""The files that a web server lists: the links of an index page, and of those below it."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any
from urllib.parse import urldefrag, urljoin, urlsplit

from nightowl.intake.streams import read_exactly

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE_BYTES = 16 * 1024**2
DEEPEST = 32


def files(fs: Any, url: str, *, depth: int = 0) -> Iterator[str]:
    """Links to files below this page's own URL, page by page. Others, and those with a query, are passed over.

    What is below a page is longer than it, so there are no circles, but a server may go on for ever: it is followed
    32 folders deep. Raises what the driver raises, and ValueError for a page that is too large.
    """
    for link in sorted(_links(fs, url)):
        if not link.endswith("/"):
            yield link
        elif depth < DEEPEST:
            yield from files(fs, link, depth=depth + 1)


def _links(fs: Any, url: str) -> set[str]:
    with fs.open(url, "rb", block_size=0) as file:  # 0: read as it comes; such pages have no length
        page = read_exactly(file, PAGE_BYTES + 1)
    if len(page) > PAGE_BYTES:
        raise ValueError(f"the page is larger than {PAGE_BYTES} bytes")
    reader = _Reader()
    reader.feed(page.decode("utf-8", "replace"))
    found = (urldefrag(urljoin(url, link)).url for link in reader.links)
    return {link for link in found if link.startswith(url) and link != url and not urlsplit(link).query}


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.links += [value for name, value in attributes if name == "href" and value]
