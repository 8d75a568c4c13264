"""Stored files: inputs that were uploaded and outputs that a job gives back, on any fsspec filesystem.

A file is written first and its row committed after, so a row never names a file that was not stored whole. Small
members of a batch lie together in one file, a pack: to create a file costs more than all the rest of a member.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import fsspec
from sqlalchemy import bindparam, delete, insert, select

from domain.errors import Code, NotFoundError, SourceError, StoreError
from storage import tables
from storage.jobs import OPEN, new_id

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from datetime import datetime

    from sqlalchemy import Row
    from sqlalchemy.orm import Session

SCHEME = "artifact:"
"""`source` of a job whose input is an artifact: artifact:<id>."""

CHUNK_BYTES = 1024 * 1024
PACKED_BYTES = 64 * 1024
"""Members up to this size are packed; the others are files of their own."""
_IN_PACK = re.compile(r"(?P<pack>.+/packs/[0-9a-f]{2}/[0-9a-f]{64})#(?P<offset>[0-9]+)")
"""The `url` of a member in a pack; its length is its size. Names of other stored files hold no #."""
_ARTIFACTS = tables.table(tables.Artifact)
_INSERT = insert(_ARTIFACTS)
_KEPT = select(_ARTIFACTS).where(_ARTIFACTS.c.id.in_(bindparam("ids", expanding=True)))
_OF_JOB = (
    select(_ARTIFACTS)
    .where(_ARTIFACTS.c.job_id == bindparam("job_id"), _ARTIFACTS.c.role == bindparam("role"))
    .order_by(_ARTIFACTS.c.name)
)

OF_OBJECTS = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az"})
"""Stores without folders: making one asks the server for nothing, or even makes a bucket."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    id: str
    name: str
    media_type: str
    size: int
    sha256: str
    url: str

    @property
    def columns(self) -> dict[str, str | int | None]:
        """Of its row."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


class ArtifactStore:
    """Files under one folder or fsspec URL. Whatever it does raises StoreError where the store does not do it."""

    def __init__(self, url: str) -> None:
        self._fs, self._root = fsspec.core.url_to_fs(url)
        self.is_local = "file" in _protocols(self._fs)
        self._has_folders = OF_OBJECTS.isdisjoint(_protocols(self._fs))
        self._made: set[str] = set()

    def put(self, content: bytes, *, name: str, media_type: str) -> StoredFile:
        """Store bytes under a fresh id."""
        with _faults():
            stored = self._place(name, media_type, size=len(content), sha256=hashlib.sha256(content).hexdigest())
            with self._fs.open(stored.url, "wb") as file:
                file.write(content)
        return stored

    def put_file(self, path: Path, *, name: str, media_type: str = "application/octet-stream") -> StoredFile:
        """Store a copy of a local file, read in chunks."""
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            with _faults():
                stored = self._place(name, media_type, size=file.tell(), sha256=digest)
                file.seek(0)
                with self._fs.open(stored.url, "wb") as target:
                    shutil.copyfileobj(file, target, CHUNK_BYTES)
        return stored

    def pack(self, contents: Mapping[str, bytes]) -> dict[str, str]:
        """Store small contents, by their hashes, in one file; returns where each lies.

        The same contents in the same order make the same file: a submit that was killed and is repeated leaves no two.
        """
        name = hashlib.sha256("".join(contents).encode()).hexdigest()
        with _faults():
            url = f"{self._folder(f'packs/{name[:2]}')}/{name}"
            self._write_whole(b"".join(contents.values()), url)
        places, offset = {}, 0
        for sha256, content in contents.items():
            places[sha256] = f"{url}#{offset}"
            offset += len(content)
        return places

    def keep(self, first: bytes, read: Callable[[int], bytes], *, name: str) -> StoredFile:
        """Store what was read already and what there is to read, under its hash: the same content lies here once.

        The id is the hash. A file is there whole or not at all; what a killed process left lies in `incoming`.
        """
        if len(first) < CHUNK_BYTES:
            with _faults():
                return self._keep_bytes(first, name=name)
        incoming = self._folder("incoming")
        digest, size = hashlib.sha256(), 0
        with tempfile.NamedTemporaryFile(dir=incoming if self.is_local else None, delete=False) as file:
            try:
                data = first
                while data:
                    digest.update(data)
                    size += file.write(data)
                    data = read(CHUNK_BYTES)
                file.close()
                with _faults():
                    stored = self._by_hash(digest.hexdigest(), name=name, size=size)
                    self._move(Path(file.name), stored)
            finally:
                Path(file.name).unlink(missing_ok=True)
        return stored

    def _keep_bytes(self, content: bytes, *, name: str) -> StoredFile:
        stored = self._by_hash(hashlib.sha256(content).hexdigest(), name=name, size=len(content))
        if not (_is_there(stored) if self.is_local else self._fs.exists(stored.url)):
            self._write_whole(content, stored.url)
        return stored

    def _write_whole(self, content: bytes, url: str) -> None:
        """The file is there whole or not at all."""
        if not self.is_local:
            self._fs.pipe_file(url, content)
            return
        path = Path(self._folder("incoming")) / new_id()
        path.write_bytes(content)
        path.replace(url)

    def _by_hash(self, sha256: str, *, name: str, size: int) -> StoredFile:
        return content_file(sha256, name=name, size=size, url=f"{self._folder(f'content/{sha256[:2]}')}/{sha256}")

    def _move(self, path: Path, stored: StoredFile) -> None:
        if not self.is_local:
            if not self._fs.exists(stored.url):
                self._fs.put_file(str(path), stored.url)
        elif not _is_there(stored):
            path.replace(stored.url)

    def _folder(self, name: str) -> str:
        """A folder of the store, made at its first use."""
        folder = f"{self._root}/{name}"
        if self._has_folders and folder not in self._made:
            self._fs.makedirs(folder, exist_ok=True)
            self._made.add(folder)
        return folder

    def read(self, stored: StoredFile) -> bytes:
        """Raises SourceError with `artifact_missing` if the file is gone."""
        try:
            with _faults(passes=(FileNotFoundError,)):
                if packed := _IN_PACK.fullmatch(stored.url):
                    start = int(packed["offset"])
                    return bytes(self._fs.cat_file(packed["pack"], start=start, end=start + stored.size))
                return bytes(self._fs.cat_file(stored.url))
        except FileNotFoundError as error:
            raise _gone(stored) from error

    def remove(self, stored: StoredFile) -> None:
        """Safe where it is gone already. What lies in a pack stays, with what else lies there."""
        if _IN_PACK.fullmatch(stored.url):
            return
        with contextlib.suppress(FileNotFoundError), _faults(passes=(FileNotFoundError,)):
            self._fs.rm_file(stored.url)

    def exists(self, stored: StoredFile) -> bool:
        packed = _IN_PACK.fullmatch(stored.url)
        with _faults():
            return bool(self._fs.exists(packed["pack"] if packed else stored.url))

    @contextmanager
    def local(self, stored: StoredFile) -> Iterator[Path]:
        """A local path to the file: the file itself where the store is local and it is one by itself, else a copy that
        is removed after use."""
        if _IN_PACK.fullmatch(stored.url):
            with tempfile.NamedTemporaryFile(prefix="nightowl-") as file:
                file.write(self.read(stored))
                file.flush()
                yield Path(file.name)
            return
        if not self.exists(stored):
            raise _gone(stored)
        if self.is_local:
            yield Path(stored.url)
            return
        with tempfile.TemporaryDirectory(prefix="nightowl-") as folder:
            path = Path(folder) / safe_name(stored.name)
            with _faults():
                self._fs.get_file(stored.url, str(path))
            yield path

    def _place(self, name: str, media_type: str, *, size: int, sha256: str) -> StoredFile:
        id = new_id()
        folder = f"{self._root}/{id[-2:]}/{id}"
        if self._has_folders:
            self._fs.makedirs(folder, exist_ok=True)
        return StoredFile(
            id=id, name=name, media_type=media_type, size=size, sha256=sha256, url=f"{folder}/{safe_name(name)}"
        )


def content_file(sha256: str, *, name: str, size: int, url: str) -> StoredFile:
    """A member of a batch, whose id is its hash."""
    kind = "application/octet-stream"
    return StoredFile(id=sha256, name=name[-1024:], media_type=kind, size=size, sha256=sha256, url=url)


@contextmanager
def _faults(*, passes: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Drivers raise what their makers chose. What `passes` is for the caller to judge."""
    try:
        yield
    except passes:
        raise
    except Exception as error:
        why = getattr(error, "strerror", None) or error or type(error).__name__
        raise StoreError(f"the artifact store does not do what it is asked: {why}"[:500]) from error


def _is_there(stored: StoredFile) -> bool:
    try:
        return Path(stored.url).stat().st_size == stored.size
    except FileNotFoundError:
        return False


def _protocols(fs: object) -> tuple[str, ...]:
    protocol = getattr(fs, "protocol", ())
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)


def safe_name(name: str) -> str:
    """The last part of a name in characters that every filesystem takes; never empty, never hidden."""
    cleaned = re.sub(r"[^\w.\- ]", "_", name.replace("\\", "/").rsplit("/", 1)[-1]).strip(". ")
    return cleaned[-120:] or "file"


def _gone(stored: StoredFile) -> SourceError:
    return SourceError(f"stored file {stored.name} ({stored.id}) is gone", code=Code.ARTIFACT_MISSING)


def add(session: Session, stored: StoredFile, *, role: Literal["source", "result"], job_id: str | None) -> None:
    session.execute(_INSERT, {**stored.columns, "role": role, "job_id": job_id})


def get(session: Session, artifact_id: str) -> StoredFile:
    """Raises NotFoundError."""
    row = session.get(tables.Artifact, artifact_id)
    if row is None:
        raise NotFoundError(f"no stored file {artifact_id!r}")
    return to_file(row)


def kept(session: Session, ids: Collection[str]) -> list[StoredFile]:
    """Those of the files that have rows."""
    return [to_file(row) for row in session.execute(_KEPT, {"ids": list(ids)})]


def of_job(session: Session, job_id: str, *, role: Literal["source", "result"] = "result") -> list[StoredFile]:
    return [to_file(row) for row in session.execute(_OF_JOB, {"job_id": job_id, "role": role})]


def drop(session: Session, job_id: str, *, role: Literal["source", "result"]) -> list[StoredFile]:
    """Remove the rows of what was fetched for a job, or of what an earlier end of it gave back.

    The caller removes the files after the commit.
    """
    old = of_job(session, job_id, role=role)
    if old:
        session.execute(delete(tables.Artifact).where(tables.Artifact.job_id == job_id, tables.Artifact.role == role))
    return old


def drop_old_copies(session: Session, *, ended_before: datetime, limit: int) -> list[StoredFile]:
    """Remove the rows of what was fetched for jobs that ended before that time. The caller removes the files."""
    row = tables.Artifact
    query = (
        select(row)
        .join(tables.Job, tables.Job.id == row.job_id)
        .where(row.role == "source", tables.Job.state.not_in(OPEN), tables.Job.finished_at < ended_before)
        .limit(limit)
    )
    old = [to_file(found) for found in session.scalars(query)]
    session.execute(delete(row).where(row.id.in_([file.id for file in old])))
    return old


def to_file(row: tables.Artifact | Row[Any]) -> StoredFile:
    return StoredFile(
        id=row.id, name=row.name, media_type=row.media_type, size=row.size, sha256=row.sha256, url=row.url
    )
