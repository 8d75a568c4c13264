from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest
from pebble import ProcessFuture

from domain.errors import Code, LostError, ReaderError, SourceError
from domain.limits import Limits
from tests.readers import errands
from worker.readers import child, children
from worker.readers.base import Media, Open, Page, Segmenting
from worker.readers.children import Readers, _Call
from worker.readers.mupdf import pymupdf

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def errand(
    readers: Readers, function: Callable[..., object], *, cancel: threading.Event | None = None, **arguments: Any
) -> Any:
    """Any function in a child, through the same door as the readers."""
    call = _Call(
        function=function, arguments=arguments, what="page 1 of x.pdf", doing="rendering", path=None, cancel=cancel
    )
    return readers._run(call)


@pytest.fixture(scope="module")
def one() -> Iterator[Readers]:
    """One child, short of time and memory; each test leaves it usable."""
    with Readers(limits=Limits(read_seconds=1.5, read_memory_mb=400), children=1) as readers:
        yield readers


def wait_until(condition: Callable[[], bool], *, seconds: float = 10.0) -> bool:
    """For what another process does, and no event can tell."""
    pause, deadline = threading.Event(), time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        pause.wait(0.02)
    return condition()


def pdf(text: str = "Hello") -> bytes:
    document = pymupdf.open()
    document.new_page().insert_text((72, 72), text)
    return bytes(document.tobytes())


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL, signal.SIGABRT])
def test_a_crash_fails_its_own_call_and_names_the_signal(one: Readers, number: signal.Signals) -> None:
    with pytest.raises(ReaderError, match=f"page 1 of x.pdf.*{number.name}") as caught:
        errand(one, errands.crash, number=int(number))
    assert (caught.value.code, caught.value.retryable) == (Code.READER_CRASHED, True)
    assert errand(one, errands.process_id) > 0


def test_an_exit_is_a_crash_too(one: Readers) -> None:
    with pytest.raises(ReaderError, match="exit code 7"):
        errand(one, errands.leave, code=7)


def test_an_idle_child_that_dies_costs_nothing(one: Readers) -> None:
    first = errand(one, errands.process_id)
    os.kill(first, signal.SIGKILL)
    assert wait_until(lambda: not psutil.pid_exists(first) or psutil.Process(first).status() == "zombie")
    assert errand(one, errands.process_id) != first


def test_a_call_that_went_down_with_its_child_is_made_again(one: Readers, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that is killed when it has taken a call and not said so: pebble never hears of that call again."""
    monkeypatch.setattr(children, "_TAKEN_SECONDS", 0.2)
    (slot,) = one._slots
    ready, asked = slot._ready, []

    class Lost:
        def schedule(self, *_: object, **__: object) -> ProcessFuture[Any]:
            return ProcessFuture()

    def first_lost() -> Any:
        asked.append(1)
        if len(asked) == 1:
            return Lost()
        monkeypatch.undo()
        return ready()

    monkeypatch.setattr(slot, "_ready", first_lost)
    assert errand(one, errands.process_id) > 0
    assert len(asked) == 2


def test_a_call_past_its_deadline_is_killed_even_in_c_code(one: Readers, tmp_path: Path) -> None:
    note = tmp_path / "pid"
    begun = time.monotonic()
    with pytest.raises(
        ReaderError, match=r"timed out.*still rendering after 1.5 s.*NIGHTOWL_LIMITS__READ_SECONDS"
    ) as caught:
        errand(one, errands.hold_the_gil, seconds=600, note=str(note))
    assert (caught.value.code, caught.value.retryable) == (Code.READ_TIMEOUT, False)
    assert time.monotonic() - begun < 15
    victim = int(note.read_text(encoding="ascii"))
    assert wait_until(lambda: not psutil.pid_exists(victim))


def test_cancel_stops_the_call_at_once_and_frees_the_child(tmp_path: Path) -> None:
    note, cancel = tmp_path / "pid", threading.Event()
    with Readers(limits=Limits(read_seconds=300), children=1) as readers, ThreadPoolExecutor(1) as pool:
        call = pool.submit(errand, readers, errands.hold_the_gil, cancel=cancel, seconds=600, note=str(note))
        assert wait_until(lambda: note.exists() and bool(note.read_text(encoding="ascii")))
        victim, begun = int(note.read_text(encoding="ascii")), time.monotonic()
        cancel.set()
        with pytest.raises(LostError, match="cancelled"):
            call.result(timeout=10)
        assert time.monotonic() - begun < 1.0
        assert wait_until(lambda: not psutil.pid_exists(victim))
        assert errand(readers, errands.process_id) != victim


def test_cancel_reaches_a_call_that_waits_for_a_free_child(tmp_path: Path) -> None:
    note, first, second = tmp_path / "pid", threading.Event(), threading.Event()
    with Readers(limits=Limits(read_seconds=300), children=1) as readers, ThreadPoolExecutor(2) as pool:
        running = pool.submit(errand, readers, errands.hold_the_gil, cancel=first, seconds=600, note=str(note))
        assert wait_until(note.exists)
        waiting = pool.submit(errand, readers, errands.process_id, cancel=second)
        second.set()
        with pytest.raises(LostError):
            waiting.result(timeout=10)
        first.set()
        with pytest.raises(LostError):
            running.result(timeout=10)


def test_close_ends_running_calls_and_all_children(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    readers = Readers(limits=Limits(read_seconds=300), children=1)
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(errand, readers, errands.hold_the_gil, seconds=600, note=str(note))
        assert wait_until(lambda: note.exists() and bool(note.read_text(encoding="ascii")))
        victim = int(note.read_text(encoding="ascii"))
        readers.close()
        with pytest.raises(LostError, match="closed"):
            call.result(timeout=10)
    assert not psutil.pid_exists(victim)
    readers.close()
    with pytest.raises(LostError, match="closed"):
        errand(readers, errands.process_id)


def test_memory_over_the_limit_is_named_and_not_retried(one: Readers) -> None:
    with pytest.raises(ReaderError, match=r"400 MiB.*NIGHTOWL_LIMITS__READ_MEMORY_MB") as caught:
        errand(one, errands.allocate, megabytes=500)
    assert (caught.value.code, caught.value.retryable) == (Code.READ_MEMORY, False)
    assert errand(one, errands.allocate, megabytes=100) == 100 * 1024 * 1024


def test_an_unexpected_exception_comes_back_with_type_and_message(one: Readers) -> None:
    with pytest.raises(ReaderError, match="unexpected ZeroDivisionError: seventeen divided by nothing"):
        errand(one, errands.stumble)


def test_children_are_quiet_dump_no_core_and_leave_ctrl_c_to_the_parent(
    one: Readers, capfd: pytest.CaptureFixture[str]
) -> None:
    assert errand(one, errands.shout) == "said"
    assert errand(one, errands.core_limit_and_interrupt) == (0, True)
    assert capfd.readouterr() == ("", "")


def test_a_child_loads_only_what_it_needs(one: Readers) -> None:
    assert not errand(one, errands.loaded) & {
        "torch",
        "celery",
        "sqlalchemy",
        "onnxruntime",
        "decord",
        "pytest",
        "transformers",
    }
    assert errand(one, errands.main_module) == "None"


def test_children_are_recycled() -> None:
    with Readers(limits=Limits(), children=1, recycle_after=2) as readers:
        ids = [errand(readers, errands.process_id) for _ in range(5)]
    assert len(set(ids)) == 3


def test_children_die_with_their_parent(tmp_path: Path) -> None:
    """The parent is killed outright while its child sits in C code and holds the GIL."""
    note = tmp_path / "pid"
    script = (
        "from domain.limits import Limits\n"
        "from tests.readers import errands\n"
        "from tests.readers.test_children import errand\n"
        "from worker.readers.children import Readers\n"
        f"errand(Readers(limits=Limits(), children=1), errands.hold_the_gil, seconds=600, note={str(note)!r})\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], cwd=Path(__file__).parents[2])
    try:
        assert wait_until(lambda: note.exists() and bool(note.read_text(encoding="ascii")), seconds=30)
        orphan = psutil.Process(int(note.read_text(encoding="ascii")))
    finally:
        parent.kill()
        parent.wait()
    assert wait_until(lambda: not orphan.is_running() or orphan.status() == "zombie")


def test_many_threads_share_two_children(open_: Callable[..., Open]) -> None:
    sources = [open_(pdf(f"Number {number}"), f"{number}.pdf") for number in range(4)]
    with Readers(limits=Limits(), children=2) as readers, ThreadPoolExecutor(8) as pool:
        pages = list(pool.map(lambda source: readers.page(source, 1, target_pixels=300), sources * 4))
    texts = [page.layer.text if page.layer else "" for page in pages]
    assert texts == [f"Number {number}" for number in range(4)] * 4


def test_errors_about_the_source_cross_the_border_whole(readers: Readers, open_: Callable[..., Open]) -> None:
    with pytest.raises(SourceError) as caught:
        readers.probe(open_(b"", "empty.pdf"))
    assert (caught.value.code, caught.value.retryable) == (Code.SOURCE_EMPTY, False)
    assert caught.value.message == "empty.pdf is an empty file (0 bytes)"


def test_a_change_of_the_file_is_noticed(readers: Readers, open_: Callable[..., Open]) -> None:
    assert _text(readers.page(open_(pdf("before"), "same.pdf"), 1, target_pixels=200)) == "before"
    assert _text(readers.page(open_(pdf("afterwards"), "same.pdf"), 1, target_pixels=200)) == "afterwards"


def test_pages_of_a_video_and_segments_of_a_document_are_refused(
    readers: Readers, open_: Callable[..., Open], clip: Callable[..., Open]
) -> None:
    frames = [np.full((32, 32, 3), shade, np.uint8) for shade in (10, 20)]
    with pytest.raises(SourceError, match="is a video"):
        readers.page(clip(frames), 1, target_pixels=100)
    with pytest.raises(SourceError, match="not a video"):
        readers.segments(open_(pdf(), "x.pdf"), Segmenting())


def test_a_result_survives_without_the_shared_file() -> None:
    page = Page(number=1, image=np.ones((4, 5, 3), np.uint8), width_points=5, height_points=4)
    parcel = child.pack(page, shelf="/nowhere/at/all")
    descriptor = os.memfd_create("test")
    try:
        copy = child.unpack(parcel, shelf=descriptor)
    finally:
        os.close(descriptor)
    assert np.array_equal(copy.image, page.image)


def test_probe_warns_of_a_name_that_lies(readers: Readers, open_: Callable[..., Open]) -> None:
    probe = readers.probe(open_(pdf(), "picture.png"))
    assert (probe.media, probe.format) == (Media.DOCUMENT, "pdf")
    assert probe.warnings == ("the name says .png, the content is pdf",)


def _text(page: Page) -> str:
    return page.layer.text if page.layer else ""
