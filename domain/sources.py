"""Sources as text: which are URLs, what of one may be shown, and which are refused before anything is opened."""

from __future__ import annotations

import re
from pathlib import Path, PurePath
from urllib.parse import unquote

from domain.errors import Code, SourceError
from domain.plain import clean, one_line

WEB = frozenset({"http", "https"})
LONGEST_NAME = 200
LONGEST_SHOWN = 300
"""Characters of a URL in a message: a server may answer with a redirect of 100,000."""

# Colons in the scheme: fsspec chains file systems as in simplecache::s3://bucket/key.
_URL = re.compile(
    r"(?P<scheme>[a-zA-Z][a-zA-Z0-9+.\-:]*)://(?P<authority>[^/?#]*)(?P<path>[^?#]*)(?P<rest>.*)", re.DOTALL
)
_REMOVED = "?…"
_ONE_SLASH = re.compile(r"[a-zA-Z][a-zA-Z0-9+.\-]+:/(?!/)")
_HOST = re.compile(r"(\[[0-9a-fA-F:.%]+\]|[^\[\]:\s]*)(:\d*)?")


def scheme(source: str) -> str | None:
    """The scheme of a URL in lower case, "https"; None for a path."""
    match = _URL.match(source)
    return match["scheme"].lower() if match else None


def at_home(path: str | Path) -> Path:
    """The path, with the home folder for a ~ at its start. Not for ~name: office programs name their lock files so."""
    given = Path(path)
    return given.expanduser() if given.parts[:1] == ("~",) else given


def is_remote(source: str) -> bool:
    """Whether it is a URL of something that lies elsewhere and must be fetched."""
    return scheme(source) not in (None, "file")


def masked(source: str) -> str:
    """The source as it may be shown: a URL without user, password, query and fragment, which may hold secrets.

    A query leaves `?…` behind. What stands where a host should and is none may be a password, and is left out as well.
    """
    match = _URL.match(source)
    if match is None:
        return source
    host = match["authority"].rpartition("@")[2]
    if not _HOST.fullmatch(host):
        return f"{match['scheme']}://***"
    shown = f"{match['scheme']}://{host}{match['path']}"
    if len(shown) > LONGEST_SHOWN:
        return f"{shown[:LONGEST_SHOWN]}…"
    return f"{shown}{_REMOVED}" if match["rest"] else shown


def without_query(source: str) -> str:
    """A web address without query and fragment, which may hold a signature; `?…` stays where they were.

    Any other source as it is: in the key of an object store a question mark is a letter like others.
    """
    match = _URL.match(source)
    if match is None or not match["rest"] or match["scheme"].lower() not in WEB:
        return source
    return f"{match['scheme']}://{match['authority']}{match['path']}{_REMOVED}"


def lacks_query(source: str) -> bool:
    """Whether `without_query` took something away."""
    return scheme(source) in WEB and source.endswith(_REMOVED)


def file_name(source: str) -> str:
    """What messages call the file: the last part of a path or URL; the host of a URL that has no path."""
    match = _URL.match(source)
    if match is None:
        return PurePath(source).name
    path = unquote(match["path"]).rstrip("/")
    name = clean(path.rpartition("/")[2] or match["authority"].rpartition("@")[2])
    return str(name)[-LONGEST_NAME:]


def check_callback(url: str) -> str:
    """The URL, if it may be called. Raises SourceError where it is not http or https, or holds a user or password."""
    check_source(url)
    if scheme(url) not in WEB:
        raise SourceError(f"callback {masked(url)} is not an http or https URL", code=Code.SOURCE_UNSUPPORTED)
    return url


def check_source(source: str) -> None:
    """Refuse what no row can hold, and a URL that holds a user or password: rows, logs and messages are not the place
    for them.

    Raises:
        SourceError: saying what to do instead.
    """
    if clean(source) != source:
        raise SourceError(
            f"{one_line(source)} is no name that the database can hold (it is not UTF-8, or has a NUL in it); "
            "rename the file, or give its bytes",
            code=Code.NAME_REFUSED,
        )
    if _ONE_SLASH.match(source):
        raise SourceError(
            f"{source.partition('?')[0].rpartition('@')[2]} looks like a URL but has one slash after its scheme; "
            "give a URL as text (a Path swallows the second slash)",
            code=Code.SOURCE_UNSUPPORTED,
        )
    match = _URL.match(source)
    if match is None:
        return
    if "@" in match["authority"]:
        raise SourceError(
            f"{masked(source)} was given with a user or password before its host, which would be stored with the job; "
            "use a presigned URL, an object store whose credentials the workers have, or upload the bytes",
            code=Code.SOURCE_REFUSED,
        )
    if match["scheme"].lower() in WEB and not _HOST.fullmatch(match["authority"]):
        raise SourceError(f"{masked(source)} has no valid host and port", code=Code.SOURCE_UNSUPPORTED)
