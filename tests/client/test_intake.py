"""What is taken of folders, archives and lists, what is refused, and that neither can cost more than the limits say."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import tarfile
import tracemalloc
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from backports import zstd
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.batches import Skipped
from domain.errors import SourceError
from domain.limits import Limits
from nightowl.intake import bounds, formats, names
from nightowl.intake.archives import Archives, Content
from nightowl.intake.bounds import Budget
from nightowl.intake.entries import Entry
from nightowl.intake.filters import Filter
from nightowl.intake.names import RefusedNameError
from nightowl.intake.origins import Origins
from nightowl.intake.references import Reference
from nightowl.intake.zips import read_zip
from tests.client.archives import overlapping, patched, special, tarred, zipped

if TYPE_CHECKING:
    from collections.abc import Callable

ALL = Filter()
TWO = {"a/x.pdf": b"%PDF-1.4 one", "b/x.pdf": b"%PDF-1.4 two"}


@pytest.fixture(autouse=True)
def no_free_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound on the ratio holds from the first 100 kB on, so that tests need no large archives."""
    monkeypatch.setattr(bounds, "FREE_BYTES", 100_000)


def taken(*sources: Any, filter: Filter = ALL, **limits: Any) -> tuple[dict[str, bytes | None], dict[str, str]]:
    """(path → content, None for what stays where it is) and (path → code of what was skipped)."""
    origins = Origins(
        archives=Archives(budget=Budget(Limits(**limits)), filter=filter), by_url=frozenset({"https", "s3"})
    )
    found: dict[str, bytes | None] = {}
    skipped: dict[str, str] = {}
    for piece in origins.members(sources):
        if isinstance(piece, Skipped):
            skipped[piece.path] = piece.code
        elif isinstance(piece, Reference):
            found[piece.path] = None
        else:
            try:
                found[piece.path] = read_all(piece)
            except SourceError as error:
                skipped[piece.path] = error.code
    return found, skipped


def read_all(member: Content) -> bytes:
    pieces = []
    while data := member.stream.read(10_000):
        pieces.append(data)
    return b"".join(pieces)


@pytest.fixture
def put(tmp_path: Path) -> Callable[[str, bytes], Path]:
    def put(name: str, content: bytes) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    return put


PACKERS: dict[str, Callable[[], bytes]] = {
    "a.zip": lambda: zipped(TWO),
    "stored.zip": lambda: zipped(TWO, method=zipfile.ZIP_STORED),
    "bzip2.zip": lambda: zipped(TWO, method=zipfile.ZIP_BZIP2),
    "a.tar": lambda: tarred(TWO),
    "gnu.tar": lambda: tarred(TWO, format=tarfile.GNU_FORMAT),
    "a.tar.gz": lambda: gzip.compress(tarred(TWO)),
    "a.tar.bz2": lambda: bz2.compress(tarred(TWO)),
    "a.tar.xz": lambda: lzma.compress(tarred(TWO)),
    "a.tar.zst": lambda: zstd.compress(tarred(TWO)),
    "several.gz": lambda: gzip.compress(tarred(TWO)[:700]) + gzip.compress(tarred(TWO)[700:]) + b"\0" * 9,
}


@pytest.mark.parametrize("name", PACKERS)
def test_every_kind_of_archive_gives_its_members(name: str, put: Callable[[str, bytes], Path]) -> None:
    assert taken(put(name, PACKERS[name]())) == (TWO, {})


def test_what_stands_before_a_zip_is_passed_over() -> None:
    entries = list(read_zip(io.BytesIO(b"#!/bin/sh\n" + zipped(TWO))))
    assert [entry.name for entry in entries if isinstance(entry, Entry)] == list(TWO)


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz"])
def test_an_archive_may_come_through_a_pipe(name: str) -> None:
    reader, writer = os.pipe()
    with os.fdopen(writer, "wb") as pipe:
        pipe.write(PACKERS[name]())
    with os.fdopen(reader, "rb") as pipe:
        assert taken(pipe) == (TWO, {})


def test_a_compressed_file_is_one_member(put: Callable[[str, bytes], Path]) -> None:
    assert taken(put("scan.pdf.gz", gzip.compress(b"%PDF-1.4"))) == ({"scan.pdf": b"%PDF-1.4"}, {})


def test_a_folder_gives_its_files_and_the_archives_in_it(put: Callable[[str, bytes], Path], tmp_path: Path) -> None:
    put("in/deep/er/x.pdf", b"%PDF")
    put("in/y.zip", zipped({"z.pdf": b"%PDF z"}))
    put("in/.DS_Store", b"x")
    (tmp_path / "in/link").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "in/pipe")
    assert taken(tmp_path / "in") == (
        {"deep/er/x.pdf": None, "y.zip/z.pdf": b"%PDF z"},
        {"link": "link_refused", "pipe": "link_refused"},
    )
    assert taken(f"{tmp_path}/in/**/*.pdf")[0] == {"deep/er/x.pdf": None}


def test_several_sources_keep_their_members_apart(put: Callable[[str, bytes], Path], tmp_path: Path) -> None:
    put("one/x.pdf", b"1")
    put("two/x.pdf", b"2")
    assert set(taken(tmp_path / "one", tmp_path / "two")[0]) == {"one/x.pdf", "two/x.pdf"}


def test_filters_choose_by_path_and_reach_into_archives(put: Callable[[str, bytes], Path]) -> None:
    path = put("a.zip", zipped({"a/x.pdf": b"1", "a/x.txt": b"2", "b/y.pdf": b"3", "in.zip": zipped({"z.pdf": b"4"})}))
    found, _ = taken(path, filter=Filter(("*.pdf",), ("b/*",)))
    assert set(found) == {"a/x.pdf", "in.zip/z.pdf"}


def test_archives_in_archives_are_opened_to_a_depth(put: Callable[[str, bytes], Path]) -> None:
    inner = zipped({"x.pdf": b"%PDF"})
    for level in (3, 2, 1):
        inner = gzip.compress(tarred({f"{level}.zip": inner})) if level == 2 else zipped({f"{level}.zip": inner})
    found, skipped = taken(put("0.zip", inner), max_archive_depth=3)
    assert (found, skipped) == ({}, {"1.zip/2.zip/3.zip": "archive_limit"})
    assert taken(put("0.zip", inner), max_archive_depth=4)[0] == {"1.zip/2.zip/3.zip/x.pdf": b"%PDF"}


def test_documents_that_are_zip_files_are_members_and_not_opened(put: Callable[[str, bytes], Path]) -> None:
    docx = zipped({"[Content_Types].xml": b"<x/>", "word/document.xml": b"<x/>"})
    epub = zipped({"mimetype": b"application/epub+zip"}, method=zipfile.ZIP_STORED)
    found, _ = taken(put("a.zip", zipped({"a": docx, "b": epub, "c.cbz": zipped({"1.png": b"x"})})))
    assert set(found) == {"a", "b", "c.cbz"}


NAMES = {
    "../x": False,
    "a/../../x": False,
    "..\\x": False,
    "/etc/passwd": False,
    "C:\\x": False,
    "a\nb": False,
    "a\x1b[31mb": False,
    "\u202eevil": False,
    "x" * 256: False,
    "/".join(["x" * 100] * 11): False,
    ".": False,
    "": False,
    "a/./b//c": "a/b/c",
    "a\\b": "a/b",
    "Bücher/日本.pdf": "Bücher/日本.pdf",
    "a..b": "a..b",
}


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_names_are_taken_or_refused(name: str) -> None:
    if NAMES[name] is False:
        with pytest.raises(RefusedNameError):
            names.checked(name)
    else:
        assert names.checked(name) == NAMES[name]


@given(st.text())
def test_a_name_that_is_taken_stays_below_its_folder_and_can_be_stored(name: str) -> None:
    try:
        path = names.checked(name)
    except RefusedNameError:
        assert names.shown(name).isprintable()
        return
    assert Path("/root", path).is_relative_to("/root")
    assert ".." not in Path(path).parts
    assert path.isprintable() or " " in path or any(ord(c) > 127 for c in path)


def test_what_is_refused_is_recorded_and_the_rest_is_taken(put: Callable[[str, bytes], Path]) -> None:
    archive = tarred(
        {
            "good.pdf": b"%PDF",
            "../up": b"x",
            "/abs": b"x",
            "sym": special("sym", tarfile.SYMTYPE, "/etc/passwd"),
            "hard": special("hard", tarfile.LNKTYPE, "good.pdf"),
            "dev": special("dev", tarfile.CHRTYPE),
            "fifo": special("fifo", tarfile.FIFOTYPE),
            "dir": special("dir", tarfile.DIRTYPE),
            "last.pdf": b"%PDF",
        }
    )
    found, skipped = taken(put("a.tar", archive))
    assert set(found) == {"good.pdf", "last.pdf"}
    assert skipped == {
        "../up": "name_refused",
        "/abs": "name_refused",
        **dict.fromkeys(("sym", "hard", "dev", "fifo"), "link_refused"),
    }


def test_a_link_in_a_zip_is_refused(put: Callable[[str, bytes], Path]) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        info = zipfile.ZipInfo("link")
        info.create_system, info.external_attr = 3, 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    assert taken(put("a.zip", buffer.getvalue())) == ({}, {"link": "link_refused"})


def test_encrypted_broken_and_lying_members_cost_only_themselves(put: Callable[[str, bytes], Path]) -> None:
    archive = zipped({"a": b"1" * 99, "encrypted": b"2" * 99, "crc": b"3" * 99, "long": b"4" * 99, "z": b"5"})
    archive = patched(archive, "encrypted", flags=1)
    archive = patched(archive, "crc", crc=7)
    archive = patched(archive, "long", size=5)
    found, skipped = taken(put("a.zip", archive))
    assert set(found) == {"a", "z"}
    assert skipped == {"encrypted": "password_required", "crc": "archive_damaged", "long": "archive_damaged"}


def test_names_in_the_code_page_of_dos_and_in_utf8(put: Callable[[str, bytes], Path]) -> None:
    archive = zipped({"B__cher.pdf": b"1", "日本.pdf": b"2"}).replace(b"B__cher", b"B\x81\x81cher")
    assert set(taken(put("a.zip", archive))[0]) == {"Büücher.pdf", "日本.pdf"}


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tar.xz", "a.tar.zst", "a.tar.bz2"])
def test_a_truncated_archive_gives_what_it_held_and_says_so(name: str, put: Callable[[str, bytes], Path]) -> None:
    members = {f"{number}.bin": os.urandom(60_000) for number in range(20)}
    whole = zipped(members) if name == "a.zip" else tarred(members)
    packed: dict[str, Callable[[bytes], bytes]] = {
        "gz": gzip.compress,
        "xz": lzma.compress,
        "zst": zstd.compress,
        "bz2": lambda data: bz2.compress(data, 1),
    }
    whole = packed.get(name.rpartition(".")[2], bytes)(whole)
    found, skipped = taken(put(name, whole[: len(whole) * 6 // 10]))
    assert skipped[name] == "archive_damaged"
    assert 6 <= len(found) <= 12
    assert all(members[path] == content for path, content in found.items())


def test_a_zip_that_was_written_to_a_pipe_and_cut_off_gives_what_it_held(put: Callable[[str, bytes], Path]) -> None:
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def tell(self) -> int:
            raise OSError("no")

    buffer = Pipe()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(9):
            archive.writestr(f"{number}", os.urandom(5000))
    whole = buffer.getvalue()
    assert len(taken(put("whole.zip", whole))[0]) == 9
    found, skipped = taken(put("cut.zip", whole[:31_000]))
    assert (set(found), skipped["cut.zip"]) == ({str(number) for number in range(6)}, "archive_damaged")


def test_a_large_zip_of_64_bits_is_read(put: Callable[[str, bytes], Path]) -> None:
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("x", "w", force_zip64=True) as file,
    ):
        file.write(b"content")
    assert taken(put("a.zip", buffer.getvalue())) == ({"x": b"content"}, {})


def test_more_entries_than_16_bits_count_are_read(put: Callable[[str, bytes], Path]) -> None:
    archive = zipped({str(number): b"" for number in range(66_000)}, method=zipfile.ZIP_STORED)
    assert sum(1 for _ in read_zip(io.BytesIO(archive))) == 66_000


BOMBS: dict[str, Callable[[], bytes]] = {
    "gz": lambda: gzip.compress(b"\0" * 30_000_000, 9),
    "zip": lambda: zipped({str(n): b"\0" * 3_000_000 for n in range(10)}),
    "nested": lambda: zipped({"in.zip": zipped({str(n): b"\0" * 3_000_000 for n in range(10)})}),
    "xz": lambda: lzma.compress(b"\0" * 30_000_000),
    "overlapping": lambda: overlapping(300, 90_000),
    "pax": lambda: gzip.compress(long_header(tarfile.XHDTYPE)),
    "long name": lambda: gzip.compress(long_header(tarfile.GNUTYPE_LONGNAME)),
}


def long_header(type: bytes) -> bytes:
    info = tarfile.TarInfo("x")
    info.type, info.size = type, 30_000_000
    return info.tobuf() + b"1" * 30_000_000


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_stopped_in_little_memory(name: str, put: Callable[[str, bytes], Path]) -> None:
    path = put("bomb", BOMBS[name]())
    tracemalloc.start()
    try:
        _, skipped = taken(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert {"archive_limit", "archive_damaged"} & set(skipped.values()), skipped
    assert peak < 12_000_000


def test_an_archive_that_holds_itself_ends_at_the_depth(put: Callable[[str, bytes], Path]) -> None:
    """A quine unpacks to itself. What stops it is the depth, here seen with one of many levels."""
    inner = zipped({"x": b"x"})
    for _ in range(30):
        inner = zipped({"r.zip": inner})
    found, skipped = taken(put("r.zip", inner))
    assert (found, skipped) == ({}, {"r.zip/r.zip/r.zip": "archive_limit"})


def test_entries_and_bytes_are_bounded(put: Callable[[str, bytes], Path]) -> None:
    path = put("a.zip", zipped({str(number): b"12345" for number in range(50)}))
    found, skipped = taken(path, max_batch_entries=10)
    assert (len(found), skipped) == (10, {"a.zip": "archive_limit"})
    found, skipped = taken(path, max_batch_bytes=100)
    assert len(found) == 20
    assert skipped["a.zip"] == "archive_limit"


def test_a_sparse_file_is_refused_and_the_next_is_taken(tmp_path: Path, put: Callable[[str, bytes], Path]) -> None:
    info = tarfile.TarInfo("sparse")
    info.type = tarfile.GNUTYPE_SPARSE
    info.size = 512
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[482] = 1
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    extended = bytearray(512)
    archive = bytes(header) + bytes(extended) + b"d" * 512 + tarred({"next.pdf": b"%PDF"})
    assert taken(put("a.tar", archive)) == ({"next.pdf": b"%PDF"}, {"sparse": "source_unsupported"})


def test_the_directory_of_a_zip_is_never_in_memory_as_a_whole(put: Callable[[str, bytes], Path]) -> None:
    path = put("a.zip", zipped({f"folder/{number:06d}.pdf": b"" for number in range(12_000)}, method=0))
    tracemalloc.start()
    try:
        with path.open("rb") as file:
            seen = sum(1 for _ in read_zip(file))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert seen == 12_000
    assert peak < 1_100_000, "zipfile takes about a kilobyte for each entry"


# Lists.


def rows(name: str, content: bytes, put: Callable[[str, bytes], Path]) -> tuple[list[Reference], dict[str, str]]:
    origins = Origins(archives=Archives(budget=Budget(Limits()), filter=Filter()), by_url=frozenset({"https"}))
    pieces = list(origins.members([put(name, content)]))
    found = [piece for piece in pieces if isinstance(piece, Reference)]
    return found, {piece.path: piece.code for piece in pieces if isinstance(piece, Skipped)}


def parquet() -> bytes:
    import pyarrow
    from pyarrow import parquet

    buffer = io.BytesIO()
    table = pyarrow.table(
        {"source": ["a.pdf", "https://x.org/b.pdf?token=s"], "pages": ["1-2", None], "name": [None, None]}
    )
    parquet.write_table(table, buffer)
    return buffer.getvalue()


MANIFESTS: dict[str, Callable[[], bytes]] = {
    "m.csv": lambda: b"\xef\xbb\xbfsource,pages\na.pdf,1-2\nhttps://x.org/b.pdf?token=s,\n",
    "m.jsonl": lambda: (
        b'{"source": "a.pdf", "params": {"pages": "1-2"}}\n\n{"source": "https://x.org/b.pdf?token=s"}\n'
    ),
    "m.parquet": parquet,
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifests_name_sources_with_params_of_their_own(
    name: str, put: Callable[[str, bytes], Path], tmp_path: Path
) -> None:
    found, skipped = rows(name, MANIFESTS[name](), put)
    assert skipped == {}
    assert [(row.path, row.params) for row in found] == [("a.pdf", {"pages": "1-2"}), ("x.org/b.pdf", None)]
    assert found[0].file == tmp_path / "a.pdf"
    assert found[1].url == "https://x.org/b.pdf?token=s"


def test_bad_rows_are_skipped_with_their_numbers(put: Callable[[str, bytes], Path]) -> None:
    lines = [
        {"source": "ok.pdf"},
        {"name": "no source"},
        {"source": "https://user:secret@x.org/"},
        {"source": "b.pdf", "params": "{"},
        {"source": "c.pdf", "name": "../out"},
    ]
    content = "\n".join(map(json.dumps, lines)).encode() + b"\nnot json\n"
    found, skipped = rows("m.jsonl", content, put)
    assert [row.path for row in found] == ["ok.pdf"]
    assert skipped == {
        "m.jsonl row 2": "params_invalid",
        "m.jsonl row 3": "source_refused",
        "m.jsonl row 4": "params_invalid",
        "m.jsonl row 5": "name_refused",
        "m.jsonl row 6": "params_invalid",
    }


def test_a_line_without_an_end_is_not_read_into_memory(put: Callable[[str, bytes], Path]) -> None:
    found, skipped = rows("m.jsonl", b'{"source": "a.pdf"}\n' + b"x" * 3_000_000, put)
    assert len(found) == 1
    assert skipped == {"m.jsonl": "archive_damaged"}


def test_lines_of_a_pipe_are_paths_urls_and_objects(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    lines = io.BytesIO(b'a.pdf\nhttps://x.org/b.pdf\n{"source": "c.pdf", "pages": "2"}\n')
    assert set(taken(lines)[0]) == {"a.pdf", "x.org/b.pdf", "c.pdf"}


def test_a_source_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="does not exist"):
        taken(tmp_path / "nothing")


# URLs, through a file system that needs no network.


def test_a_remote_folder_and_a_remote_archive_are_read(put: Callable[[str, bytes], Path]) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe_file("/bucket/a/x.pdf", b"%PDF")
    memory.pipe_file("/bucket/y.tar", tarred({"z.pdf": b"%PDF z"}))
    try:
        assert taken("memory://bucket")[0] == {"a/x.pdf": b"%PDF", "y.tar/z.pdf": b"%PDF z"}
        assert taken("memory://bucket/y.tar")[0] == {"z.pdf": b"%PDF z"}
        with pytest.raises(SourceError, match="does not exist"):
            taken("memory://bucket/none.tar")
    finally:
        memory.rm("/bucket", recursive=True)


# Anything at all.


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(["a.zip", "a.tar", "a.tar.gz", "a.tar.xz", "a.tar.zst"]), st.data())
def test_any_damage_is_said_and_never_a_crash(name: str, data: st.DataObject) -> None:
    raw = bytearray(PACKERS[name]())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    raw = raw[: data.draw(st.integers(1, len(raw)))]
    format = formats.tell(bytes(raw[: formats.HEAD_BYTES]), name)
    if format in formats.ARCHIVES:
        archives = Archives(budget=Budget(Limits()), filter=Filter())
        for piece in archives.of_file(io.BytesIO(raw), name=name, prefix="", format=format or ""):
            if isinstance(piece, Content):
                try:
                    read_all(piece)
                except SourceError:
                    continue
