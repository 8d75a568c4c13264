"""The `experts` engine: vision experts write down what they see, and a language model composes, as MM-REACT does.

For machines without a GPU and without a checkpoint. Reading is recognizer.py and orientation.py, naming is tagger.py,
sentences about pictures are evidence.py, and answers are the chat model's. Nothing is downloaded.
"""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from domain.errors import EngineError, NightowlError, SetupError
from worker.engines.base import DEFAULT_SLOTS, Completion, FinishReason, Label, Purpose, Turn
from worker.engines.evidence import Evidence, colours_of, is_same, sentences, texts_of
from worker.engines.orientation import read_sheet
from worker.engines.reading_order import reading_rows, upright
from worker.engines.recognizer import MAX_SIDE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from worker.engines.base import RGB, EngineConfig, Line, Request, Sampling
    from worker.engines.orientation import Sheet
    from worker.engines.recognizer import Recognizer
    from worker.engines.tagger import Tagger

logger = logging.getLogger(__name__)

# onnxruntime and torch use the cores themselves; a second thread fills the gaps between their runs.
VISION_THREADS = 2
LEAST_LABEL = 0.1
TOP_LABELS = 5
# The characters of PP-OCRv6's recognition model (in the metadata of its ONNX file) were compared with these alphabets.
READ_SCRIPTS = "Latin, Greek, Chinese and Japanese"
READ_NAMES = ("LATIN", "GREEK", "CJK", "HIRAGANA", "KATAKANA")
"""The same, as the names of their characters begin in Unicode."""
UNREAD_LANGUAGES = frozenset(
    (
        *("ar", "arabic", "fa", "persian", "ur", "urdu", "he", "hebrew", "ru", "russian", "uk", "ukrainian"),
        *("be", "belarusian", "bg", "bulgarian", "sr", "serbian", "mk", "macedonian", "kk", "kazakh", "ko", "korean"),
        *("hi", "hindi", "bn", "bengali", "ta", "tamil", "te", "telugu", "th", "thai", "ka", "georgian"),
        *("hy", "armenian", "am", "amharic"),
    )
)
# What the chat template puts around the turns and its own system turn, with room to spare.
TEMPLATE_TOKENS = 64


class Writer(Protocol):
    """What of a ChatModel is used here."""

    context_tokens: int

    def submit(
        self,
        turns: Sequence[Turn],
        *,
        max_new_tokens: int,
        sampling: Sampling,
        stop: Sequence[str],
        deadline_at: float | None,
        cancel: threading.Event | None,
    ) -> Future[Completion]: ...

    def count_tokens(self, text: str) -> int: ...

    def close(self) -> None: ...


class _Interrupted(Exception):
    """The request was cancelled, or its time is up."""

    def __init__(self, reason: FinishReason) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sight:
    """What the experts saw in the images of a request."""

    evidence: Evidence
    sheets: tuple[Sheet, ...]
    labels: tuple[tuple[Label, ...], ...]

    @property
    def facts(self) -> dict[str, Any]:
        colours = self.evidence.colours
        return {**_lie(self.sheets), "colours": list(colours.main) if colours else []}


class ExpertsEngine:
    """An Engine of small experts. It owns its chat model and its threads."""

    name = "experts"
    page_pixels = MAX_SIDE
    reads_scripts = READ_NAMES

    def __init__(self, *, recognizer: Recognizer, tagger: Tagger, chat: Writer, model: str) -> None:
        self.model = model
        self.context_tokens = chat.context_tokens
        self._recognizer = recognizer
        self._tagger = tagger
        self._chat = chat
        self._closed = threading.Event()
        self._pool = ThreadPoolExecutor(VISION_THREADS, thread_name_prefix="experts")

    def submit(self, request: Request) -> Future[Completion]:
        if self._closed.is_set():
            return _failed(EngineError("the engine is closed"))
        if request.purpose is Purpose.WRITE and not request.images:
            return self._write(request)
        target: Future[Completion] = Future()
        target.set_running_or_notify_cancel()
        try:
            self._pool.submit(self._run, request, target)
        except RuntimeError:  # closed a moment ago
            return _failed(EngineError("the engine is closed"))
        return target

    def count_tokens(self, text: str) -> int:
        return self._chat.count_tokens(text)

    def close(self) -> None:
        self._closed.set()
        self._pool.shutdown(wait=True)
        self._chat.close()

    def _run(self, request: Request, target: Future[Completion]) -> None:
        try:
            completion = self._look(request, target)
        except _Interrupted as interrupted:
            completion = Completion(text="", finish_reason=interrupted.reason)
        except NightowlError as error:
            target.set_exception(error)
            return
        # The edge of the thread: whatever a library raises must reach the future, or its caller waits for ever.
        except Exception as error:
            logger.exception("an expert failed")
            target.set_exception(EngineError(f"an expert failed: {type(error).__name__}: {error}"[:300]))
            return
        if completion is not None:
            target.set_result(completion)

    def _look(self, request: Request, target: Future[Completion]) -> Completion | None:
        """The completion, or None where the chat model will complete the target."""
        check = self._checker(request)
        if request.purpose is Purpose.READ:
            return self._read(request, check=check)
        sight = self._see(request.images, check=check)
        if request.purpose is Purpose.DESCRIBE:
            return _described(sight)
        answer = self._write(_with_evidence(request, sight, budget=self._budget(request), count=self.count_tokens))
        answer.add_done_callback(lambda done: _pass_on(done, target, sight))
        return None

    def _read(self, request: Request, *, check: Callable[[], None]) -> Completion:
        sheets = self._sheets(request.images, check=check)
        text = "\n\n".join(filter(None, (_plain(sheet.lines) for sheet in sheets)))
        return Completion(
            text=text,
            finish_reason=FinishReason.STOP,
            lines=tuple(sheet.lines for sheet in sheets),
            facts=_lie(sheets) | unread_warning(request.languages),
        )

    def _see(self, images: Sequence[RGB], *, check: Callable[[], None]) -> _Sight:
        sheets = self._sheets(images, check=check)
        found = []
        for image in images:
            check()
            found.extend(self._tagger.probabilities([image]))
        mean = {name: sum(one[name] for one in found) / len(found) for name in found[0]} if found else {}
        evidence = Evidence(
            pictures=len(images),
            colours=colours_of(images) if images else None,
            labels=_best(mean),
            texts=texts_of(sheet.lines for sheet in sheets),
            still=all(is_same(images[0], image) for image in images[1:]),
        )
        return _Sight(evidence=evidence, sheets=sheets, labels=tuple(_best(one) for one in found))

    def _sheets(self, images: Sequence[RGB], *, check: Callable[[], None]) -> tuple[Sheet, ...]:
        """The text of each image. A frame that shows what the frame before it showed is not read again."""
        sheets: list[Sheet] = []
        for n, image in enumerate(images):
            check()
            same = n > 0 and images[n - 1].shape == image.shape and bool((images[n - 1] == image).all())
            sheets.append(sheets[-1] if same else read_sheet(self._recognizer, image, check=check))
        return tuple(sheets)

    def _write(self, request: Request) -> Future[Completion]:
        return self._chat.submit(
            request.turns,
            max_new_tokens=request.max_new_tokens,
            sampling=request.sampling,
            stop=request.stop,
            deadline_at=request.deadline_at,
            cancel=request.cancel,
        )

    def _budget(self, request: Request) -> int:
        """The tokens that evidence may take: what turns and answer leave of the context."""
        turns = sum(self.count_tokens(turn.text) for turn in request.turns)
        return self.context_tokens - request.max_new_tokens - turns - TEMPLATE_TOKENS

    def _checker(self, request: Request) -> Callable[[], None]:
        def check() -> None:
            if self._closed.is_set() or (request.cancel is not None and request.cancel.is_set()):
                raise _Interrupted(FinishReason.CANCELLED)
            if request.deadline_at is not None and time.monotonic() >= request.deadline_at:
                raise _Interrupted(FinishReason.DEADLINE)

        return check


def unread_warning(languages: Sequence[str]) -> dict[str, Any]:
    """A warning for the languages whose script PP-OCRv6's characters leave out: text in them comes out as noise."""
    unread = [name for name in languages if name.lower().partition("-")[0] in UNREAD_LANGUAGES]
    if not unread:
        return {}
    return {"warnings": [f"the experts engine does not read {', '.join(unread)}: it knows {READ_SCRIPTS} script"]}


def create(config: EngineConfig) -> ExpertsEngine:
    """The factory. The experts load side by side. Raises SetupError where one of their wheels is missing."""
    if config.model is not None:
        raise SetupError(f"the experts run their own models; NIGHTOWL_MODEL={config.model} is for another engine")
    try:
        return _load(config)
    except ImportError as error:
        raise SetupError(
            f"the experts need a package that is missing ({error}); pip install 'nightowl[engine]'"
        ) from error


def _load(config: EngineConfig) -> ExpertsEngine:
    from worker.engines.chat import load_smollm
    from worker.engines.recognizer import Recognizer
    from worker.engines.tagger import Tagger

    def recognizer() -> Recognizer:
        made = Recognizer(threads=config.threads)
        made.warm()
        return made

    with ThreadPoolExecutor(2, thread_name_prefix="experts-load") as pool:
        reading, naming = pool.submit(recognizer), pool.submit(Tagger)
        chat = load_smollm(
            config.cache_dir,
            slots=config.slots or DEFAULT_SLOTS,
            context_tokens=config.context_tokens,
            threads=config.threads,
        )
        try:
            return ExpertsEngine(recognizer=reading.result(), tagger=naming.result(), chat=chat, model=_model_name())
        except BaseException:
            chat.close()
            raise


def _model_name() -> str:
    from importlib.metadata import version

    major, minor = version("rapidocr").split(".")[:2]
    return f"rapidocr-{major}.{minor}+efficientnet-lite0+smollm2-135m-instruct"


def _best(found: dict[str, float]) -> tuple[Label, ...]:
    ranked = sorted(found.items(), key=lambda item: -item[1])[:TOP_LABELS]
    return tuple(Label(name=name, confidence=round(p, 4)) for name, p in ranked if p >= LEAST_LABEL)


def _lie(sheets: Sequence[Sheet]) -> dict[str, Any]:
    """How a page lay. Several pages of one request each have their own; frames of a video are not turned."""
    if not sheets:
        return {}
    if len(sheets) == 1:
        return {"rotation": sheets[0].rotation, "skew": sheets[0].skew}
    return {"rotation": [sheet.rotation for sheet in sheets], "skew": [sheet.skew for sheet in sheets]}


def _plain(lines: Sequence[Line]) -> str:
    rows = reading_rows(upright([line.box for line in lines])) if lines else ()
    return "\n".join(" ".join(lines[i].text for i in row) for row in rows)


def _described(sight: _Sight) -> Completion:
    return Completion(
        text=sentences(sight.evidence),
        finish_reason=FinishReason.STOP,
        lines=tuple(sheet.lines for sheet in sight.sheets),
        labels=sight.labels,
        facts=sight.facts,
    )


def _with_evidence(request: Request, sight: _Sight, *, budget: int, count: Callable[[str], int]) -> Request:
    """The request with what was seen before the last turn, cut to the budget, and without the images."""
    pages = [text for sheet in sight.sheets if (text := _plain(sheet.lines))]
    look = sentences(sight.evidence, quote=False)
    seen = "\n\n".join([look, *(f"Text in the picture:\n{page}" for page in dict.fromkeys(pages))])
    last = request.turns[-1] if request.turns else Turn(role="user", text="Say what the picture shows.")
    text = f"{_clipped(seen, budget=budget, count=count)}\n\n{last.text}"
    return replace(request, images=(), turns=(*request.turns[:-1], replace(last, text=text)))


def _clipped(text: str, *, budget: int, count: Callable[[str], int]) -> str:
    """As many whole words from the start as the budget holds."""
    if count(text) <= budget:
        return text
    words = text.split(" ")
    low, high = 0, len(words)
    while low < high:
        middle = (low + high + 1) // 2
        if count(" ".join(words[:middle])) <= budget:
            low = middle
        else:
            high = middle - 1
    return " ".join(words[:low])


def _pass_on(done: Future[Completion], target: Future[Completion], sight: _Sight) -> None:
    if error := done.exception():
        target.set_exception(error)
        return
    lines = tuple(sheet.lines for sheet in sight.sheets)
    target.set_result(replace(done.result(), lines=lines, labels=sight.labels, facts=sight.facts))


def _failed(error: EngineError) -> Future[Completion]:
    future: Future[Completion] = Future()
    future.set_exception(error)
    return future
