"""What is said to a model: in six languages, from data alone, within the context, and nothing that would mislead."""

from __future__ import annotations

import itertools
import re
import string
import tomllib
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

import platformdirs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.errors import SetupError
from domain.params import Ask, Caption, Copywrite, Ocr, Params, Summarize
from domain.states import JobState
from tasks import prompts
from tasks.looking import HINT_BYTES, HONEST, spelling
from tasks.prompts import LANGUAGES, Prompts, Wording
from tasks.work import FORM_TOKENS, INSTRUCTION_TOKENS
from tests.tasks.conftest import Sheet, StandInReaders, WatchedEngine
from worker.engines.base import Purpose, Request
from worker.readers.base import LayerLine, TextLayer
from worker.readers.mupdf import pymupdf

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.tasks.conftest import MakeWorker

    MakePdf = Callable[..., Path]

FOLDER = Path(prompts.__file__).parent
STYLES = get_args(Summarize.model_fields["style"].annotation)
LENGTHS = get_args(Summarize.model_fields["length"].annotation)
CHANNELS = get_args(Copywrite.model_fields["channel"].annotation)
GREEK = " ".join(f"Η κουκουβάγια αριθμός {n} διαβάζει στο σκοτάδι της νύχτας." for n in range(60))

every_language = pytest.mark.parametrize("code", LANGUAGES)


def table(code: str) -> dict[str, Any]:
    """The file of a language with dotted keys."""
    found: dict[str, Any] = {}
    for key, value in tomllib.loads((FOLDER / f"{code}.toml").read_text()).items():
        found.update(
            {f"{key}.{name}": item for name, item in value.items()} if isinstance(value, dict) else {key: value}
        )
    return found


def placeholders(template: Any) -> set[str]:
    return (
        {name for _, name, _, _ in string.Formatter().parse(template) if name} if isinstance(template, str) else set()
    )


def templates(wording: Wording) -> dict[str, str]:
    values = {field.name: getattr(wording, field.name) for field in fields(wording)}
    return {name: value for name, value in values.items() if isinstance(value, str)}


def every_prompt(said: Prompts, **values: str) -> Iterator[tuple[str, list[str]]]:
    """Each prompt for every combination of params, with the texts that must stand in it."""
    given = {name: values.get(name, f"<{name}>") for name in ("text", "focus", "tone", "audience", "brief", "question")}
    text, focus, question = given["text"], given["focus"], given["question"]
    yield from ((said.read_page, []), (said.hint(text), [text]))
    yield from ((prompt, [said.in_language.strip()]) for prompt in (said.describe_picture, said.describe_scene))
    for spec, place in (({"page": 12}, "12"), ({"start": 5.2, "end": 3661.0}, "0:05-1:01:01")):
        yield said.note(spec, text), [place, text]
        for about in (None, focus):
            yield said.digest(text, label=said.label(spec), focus=about), [place, text, about or ""]
    yield said.join_digests(text), [text]
    for style, length, about in itertools.product(STYLES, LENGTHS, (None, focus)):
        params = Summarize(style=style, length=length, focus=about)
        words = str(said.wording.words[length])
        yield said.summary(text, params), [text, said.wording.styles[style], words, about or "", said.in_language]
    for channel, tone, audience, brief, facts in itertools.product(
        CHANNELS, (None, given["tone"]), (None, given["audience"]), (None, given["brief"]), ("", text)
    ):
        if not brief and not facts:  # such a job is refused
            continue
        wishes = Copywrite(channel=channel, tone=tone, audience=audience, brief=brief, max_words=77)
        asked = [said.wording.channels[channel], tone or "", audience or "", brief or "", facts, "77", said.in_language]
        yield said.copy(facts, wishes), asked
    yield said.answer(question, text), [question, text, said.in_language]
    yield said.question(question), [question, said.in_language.strip()]
    yield said.synopsis(text), [text, said.in_language]


# The files.


def test_there_is_a_file_for_each_language_and_no_other() -> None:
    assert {path.stem for path in FOLDER.glob("*.toml")} == {*LANGUAGES, prompts.OTHER_LANGUAGES}


@every_language
def test_every_language_has_the_keys_and_the_placeholders_of_english(code: str) -> None:
    english, other = table("en"), table(code)
    assert list(other) == list(english)
    assert {key: placeholders(value) for key, value in other.items()} == {
        key: placeholders(value) for key, value in english.items()
    }


@every_language
def test_the_lists_are_those_of_the_params(code: str) -> None:
    wording = prompts.wording(code)
    assert (set(wording.styles), set(wording.words), set(wording.channels)) == (
        set(STYLES),
        set(LENGTHS),
        set(CHANNELS),
    )
    assert 0 < wording.words["short"] < wording.words["medium"] < wording.words["long"]


@every_language
def test_every_template_renders_for_every_combination_of_params(code: str) -> None:
    wording = prompts.wording(code)
    said = Prompts(wording=wording, in_language=wording.in_language.format(language=wording.name))
    rendered = list(every_prompt(said))
    assert len(rendered) == 92
    for prompt, texts in rendered:
        assert all(text in prompt for text in texts), prompt
        assert not re.search(r"[{}]|  |\bNone\b| \n|\n\n\n", prompt), prompt
        assert prompt == prompt.strip()


@every_language
def test_no_text_of_a_user_is_taken_for_a_template(code: str) -> None:
    said = Prompts(wording=prompts.wording(code))
    tricky = dict.fromkeys(("text", "focus", "tone", "audience", "brief", "question"), "{language} {0} {} }{ %s $x \\n")
    for prompt, texts in every_prompt(said, **tricky):
        assert all(text in prompt for text in texts)


SCRIPTS = {
    "zh": r"[^\u3040-\u30ff\uac00-\ud7af]*[\u4e00-\u9fff][^\u3040-\u30ff\uac00-\ud7af]*",
    "ja": r"[^\uac00-\ud7af]*[\u3040-\u30ff\u4e00-\u9fff][^\uac00-\ud7af]*",
    "ko": r"[^\u3040-\u30ff\u4e00-\u9fff]*[\uac00-\ud7af][^\u3040-\u30ff\u4e00-\u9fff]*",
}


@pytest.mark.parametrize("code", SCRIPTS)
def test_chinese_japanese_and_korean_wording_is_in_its_own_script_throughout(code: str) -> None:
    wording = prompts.wording(code)
    said = {**templates(wording), **wording.styles, **wording.channels}
    for key in said.keys() - {"english", "span", "note", "question"}:  # the last three are placeholders alone
        words = re.sub(r"\{\w+\}", "", said[key]).replace("SNS", "")
        assert re.fullmatch(SCRIPTS[code], words, re.DOTALL), key
        assert not re.search("[A-Za-z]", words), key


def test_a_file_with_a_key_too_few_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lines = (FOLDER / "de.toml").read_text().splitlines(keepends=True)
    (tmp_path / "de.toml").write_text("".join(line for line in lines if not line.startswith("hint")))
    monkeypatch.setattr(prompts, "files", lambda _: tmp_path)
    with pytest.raises(SetupError, match=r"de\.toml.*'hint'.*en\.toml"):
        prompts.wording.__wrapped__("de")
    with pytest.raises(SetupError, match=r"fr\.toml cannot be read"):
        prompts.wording.__wrapped__("fr")


# English, which jobs without a language get.


def test_the_english_wording() -> None:
    said = prompts.for_language(None)
    assert said.read_page == "Write down all the text in this picture, line by line, and nothing else."
    assert said.describe_picture == "Describe this picture in one or two sentences. Say only what is there."
    assert said.describe_scene == (
        "These are frames of one scene of a video, in order. Say in one sentence what the scene shows."
    )
    assert said.digest("Text.", label=said.label({"page": 3}), focus="money") == (
        "Summarize page 3 of a document in two sentences, with facts from the text only. "
        "Keep what matters for: money.\n\nText."
    )
    assert said.join_digests("Notes.") == (
        "Merge these notes on parts of a document into a few sentences. Keep the facts.\n\nNotes."
    )
    assert said.summary("Notes.", Summarize(style="bullets", length="short", focus="money")) == (
        "Summarize a document from these notes on its parts, as a list of short points, each on a line that begins "
        "with a dash, in at most 50 words. Use only facts from the notes. The reader cares about: money.\n\nNotes."
    )
    assert said.copy("Oak.", Copywrite(channel="ad", tone="warm", audience="owls", brief="A lamp")) == (
        "Product facts: A lamp\nOak.\n\nWrite a short advertisement for owls in a warm tone, in at most 120 words. "
        "Use only these facts."
    )
    assert said.answer("Who?", "Text.") == (
        "Answer the question in one or two sentences, with facts from the text only.\n\nText: Text.\n\nQuestion: Who?"
    )
    assert said.question("Who?") == "Who?"
    assert said.synopsis("- A scene") == ("Say in one or two sentences what this video shows. Its scenes:\n\n- A scene")


# Which language.


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("en", ("English", "en", "EN", "en-GB", "en_US")),
        ("zh", ("Chinese", "zh", "zh-CN", "zh_CN", "zh-Hans", "zh-Hans-CN", "中文", "简体中文", "simplified chinese")),
        ("ja", ("Japanese", "JAPANESE", "ja", "ja-JP", "日本語", "jpn")),
        ("fr", ("French", "fr", "fr-CA", "fr_CA", "français", "Français", "franc\u0327ais", "FRANÇAIS")),
        ("ko", ("Korean", "ko", "ko-KR", "한국어")),
        ("de", ("German", "german", "Deutsch", "de", "DE", "de-AT", " de ", "ｄｅ")),
    ],
)
def test_a_language_goes_by_its_names_and_codes(code: str, names: tuple[str, ...]) -> None:
    for name in names:
        said = prompts.for_language(name)
        assert said.wording is prompts.wording(code)
        assert said.wording.name in said.in_language


@pytest.mark.parametrize(
    ("language", "sentence"),
    [(None, ""), ("de", " Write in German."), ("中文", " Write in Chinese."), ("en-GB", " Write in English.")],
)
def test_an_engine_that_is_told_in_english_is_told_the_language_too(language: str | None, sentence: str) -> None:
    said = prompts.for_language(language, in_english=True)
    assert (said.wording, said.in_language) == (prompts.wording("en"), sentence)


@pytest.mark.parametrize(
    ("language", "called"),
    [
        ("es", "Spanish"),
        ("es-419", "Spanish"),
        ("Spanish", "Spanish"),
        ("pt-BR", "Brazilian Portuguese"),
        ("pt_PT", "Portuguese"),
        ("zh-TW", "Traditional Chinese"),
        ("zh-Hant-TW", "Traditional Chinese"),
        ("Klingon", "Klingon"),
        (" tlh-001 ", "tlh-001"),
        ("español", "español"),
    ],
)
def test_another_language_is_named_in_english(language: str, called: str) -> None:
    said = prompts.for_language(language)
    assert said.wording is prompts.wording("en")
    assert said.in_language == f" Write in {called}."


def test_no_name_means_two_languages() -> None:
    names = [name.casefold() for code in LANGUAGES for name in prompts.wording(code).names]
    assert len(set(names)) == len(names)
    others = tomllib.loads((FOLDER / f"{prompts.OTHER_LANGUAGES}.toml").read_text())
    assert not {name.casefold() for name in names} & set(others)
    assert all(key == key.casefold() for key in others), "a code is looked up in lower case"


@pytest.mark.parametrize(
    ("params", "code"),
    [
        (Summarize(), "en"),
        (Summarize(language="fr"), "fr"),
        (Ask(question="Qui ?", language="French"), "fr"),
        (Ocr(), "en"),
        (Ocr(languages=("ja", "en")), "ja"),
        (Ocr(languages=("ru", "ja")), "en"),
    ],
)
def test_the_language_of_a_job_chooses_and_of_ocr_the_first_of_its_languages(params: Params, code: str) -> None:
    assert prompts.of_params(params).wording is prompts.wording(code)


# What the engine is told.


def without_words(wording: Wording) -> Wording:
    """The wording with its placeholders only."""
    bare = {key: " ".join(f"{{{name}}}" for name in placeholders(value)) for key, value in templates(wording).items()}
    nothing = dict.fromkeys((*STYLES, *CHANNELS), "")
    return replace(wording, **cast("Any", {**bare, "styles": nothing, "channels": nothing}))


def test_nothing_is_said_to_a_model_that_is_not_in_the_files(
    make_worker: MakeWorker, file: Path, picture: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With files that say nothing and texts in Greek, no prompt of any kind has a Latin letter."""
    bare = without_words(prompts.wording("en"))
    monkeypatch.setattr(prompts, "wording", lambda _: bare)
    engine = WatchedEngine(reply=lambda _: GREEK[:400], context_tokens=640)
    pages = StandInReaders(*[GREEK] * 8)
    for readers, source, params in (
        (pages, file, Summarize(focus="νύχτα")),
        (pages, file, Copywrite(brief="λάμπα", tone="ζεστός", audience="κουκουβάγιες")),
        (pages, file, Ask(question="Ποιος;")),
        (pages, file, Caption()),
        (pages, file, Ocr(mode="image")),
        (None, picture, Summarize()),
        (None, picture, Ask(question="Ποιος;")),
        (None, clip, Summarize()),
        (None, clip, Caption()),
        (None, clip, Ocr()),
        (None, clip, Ask(question="Ποιος;")),
    ):
        engine.requests.clear()
        job = make_worker(readers, engine=engine, slice_parts=20).do(cast("Params", params), source)
        assert job.state is JobState.SUCCEEDED, job.error
        assert engine.requests
        for request in engine.requests:
            said = "\n".join([*(turn.text for turn in request.turns), request.hint])
            assert not re.search("[A-Za-z]", said), said


@pytest.mark.parametrize(("source", "is_clip"), [("clip", True), ("picture", False)])
def test_frames_of_a_scene_are_a_clip_and_a_picture_is_none(
    make_worker: MakeWorker, request: pytest.FixtureRequest, source: str, is_clip: bool
) -> None:
    worker = make_worker()
    for params in (Ask(question="What moves?"), Summarize()):
        worker.engine.requests.clear()
        assert worker.do(params, request.getfixturevalue(source)).state is JobState.SUCCEEDED
        looked = [asked for asked in worker.engine.requests if asked.images]
        assert looked
        assert all(asked.clip is is_clip for asked in looked)


@pytest.mark.parametrize(
    ("name", "sentence"), [("experts", "Write in German."), ("mplug-owl", "Schreibe auf Deutsch.")]
)
def test_the_experts_are_told_in_english(make_worker: MakeWorker, file: Path, name: str, sentence: str) -> None:
    engine = WatchedEngine()
    engine.name = name
    worker = make_worker(StandInReaders("Owls read here."), engine=engine)
    assert worker.do(Ask(question="Who?", language="de"), file).state is JobState.SUCCEEDED
    assert sentence in worker.engine.prompts[-1]


# The budget.


FORM = 40
"""What of FORM_TOKENS a form takes; the rest is for what a template does not show: page numbers, numbers of words."""


class ByteEngine(WatchedEngine):
    """An engine whose tokenizer knows no word: each byte is a token."""

    def count_tokens(self, text: str) -> int:
        return len(text.encode())


@every_language
def test_no_language_pushes_a_prompt_over_the_context(make_worker: MakeWorker, file: Path, code: str) -> None:
    engine = ByteEngine(reply=lambda _: "Owls read here at night. " * 4, context_tokens=2048)
    pages = StandInReaders(*["Owls read here. " * 300] * 6)
    for params in (
        Summarize(language=code, style="executive", length="long", focus="owls " * 20),
        Copywrite(language=code, channel="press", tone="warm " * 9, audience="owls " * 9, brief="A lamp. " * 9),
        Ask(language=code, question="Who reads here at night?"),
        Caption(language=code),
    ):
        engine.requests.clear()
        worker = make_worker(pages, engine=engine)
        assert worker.do(cast("Params", params), file).state is JobState.SUCCEEDED
        sizes = [sum(engine.count_tokens(t.text) for t in r.turns) + r.max_new_tokens for r in engine.requests]
        assert max(sizes) + FORM <= 2048


@pytest.mark.weights
@every_language
def test_the_room_for_instructions_holds_the_longest_one_as_smollm2_counts(code: str) -> None:
    from worker.engines import smollm

    _, tokenizer = smollm.load(Path(platformdirs.user_cache_dir("nightowl")))

    def count(text: str) -> int:
        messages = [{"role": "user", "content": text}]
        encoded: Any = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
        return len(encoded["input_ids"])

    wording = prompts.wording(code)
    longest = len(tokenizer(wording.longest, add_special_tokens=False)["input_ids"])
    room = max(INSTRUCTION_TOKENS, FORM_TOKENS + longest)
    said = Prompts(wording=wording, in_language=wording.in_language.format(language=wording.name))
    nothing = dict.fromkeys(("text", "focus", "tone", "audience", "brief", "question"), " ")
    assert max(count(prompt) for prompt, _ in every_prompt(said, **nothing)) <= room
    assert code != "en" or room == INSTRUCTION_TOKENS


# The text layer as a help for spelling.


def layer(*lines: str, trusted: bool = True, reason: str = "") -> TextLayer:
    return TextLayer(
        lines=tuple(LayerLine(text=line, box=(0, 0, 9, 9)) for line in lines), trusted=trusted, reason=reason
    )


def test_the_reasons_that_leave_a_layer_its_honesty_are_those_of_the_reader() -> None:
    source = Path(str(spelling.__globals__["__file__"])).parents[1] / "worker" / "readers" / "layer.py"
    reasons = re.findall(r'^        return "(.+)"$', source.read_text(), re.MULTILINE)
    assert len(reasons) == 4
    assert set(HONEST) < set(reasons)


@pytest.mark.parametrize(
    ("found", "hint"),
    [
        (None, ""),
        (layer(), ""),
        (layer("Mr Owl,", "  12 Oak   Lane"), "Mr Owl, 12 Oak Lane"),
        (layer("Stamp 12", trusted=False, reason=HONEST[0]), "Stamp 12"),
        (layer("Head", trusted=False, reason=HONEST[1]), "Head"),
        (layer("qzx vvk", trusted=False, reason="glyphs without a Unicode map"), ""),
        (layer("tbe 0wl", trusted=False, reason="invisible text of an earlier OCR"), ""),
        (layer("what", trusted=False), ""),
        (layer("\ue001\ue002 Owl \ufffdight b\x07d \u200bzero"), "Owl"),
    ],
)
def test_the_hint_is_what_an_honest_layer_says(found: TextLayer | None, hint: str) -> None:
    assert spelling(found) == hint


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]) | st.just("\N{OWL}")), max_size=6))
def test_a_hint_is_short_and_on_one_line(lines: list[str]) -> None:
    hint = spelling(layer(*lines))
    assert len(hint.encode()) <= HINT_BYTES
    assert hint == " ".join(hint.split())
    assert hint.isprintable()


@pytest.mark.parametrize(("word", "least"), [("owl", 290), ("夜に", 290), ("梟", 298)])
def test_a_long_layer_gives_a_hint_that_uses_its_room(word: str, least: int) -> None:
    text = " ".join([word] * 200) if word.isascii() else "第1章 " + word * 200
    hint = spelling(layer(text))
    assert least <= len(hint.encode()) <= HINT_BYTES
    assert text.startswith(hint)
    assert not word.isascii() or hint.endswith(word)


@pytest.mark.parametrize(
    ("sheet", "params", "hint"),
    [
        (
            Sheet(text="Dr. Ägir Þór"),
            Ocr(mode="image"),
            "The file's own text says: “Dr. Ägir Þór” It may be wrong; use it only for the spelling.",
        ),
        (
            Sheet(text="Dr. Ägir Þór"),
            Ocr(mode="image", languages=("German",)),
            "Der Text in der Datei selbst lautet: „Dr. Ägir Þór“ "
            "Er kann falsch sein; nutze ihn nur für die Schreibweise.",
        ),
        (Sheet(text="qzx vvk", trusted=False), Ocr(), ""),
        (Sheet(text=None), Ocr(), ""),
    ],
)
def test_a_page_that_is_read_by_eye_comes_with_its_hint(
    make_worker: MakeWorker, file: Path, sheet: Sheet, params: Ocr, hint: str
) -> None:
    worker = make_worker(StandInReaders(sheet))
    assert worker.do(params, file).state is JobState.SUCCEEDED
    (asked,) = worker.engine.requests
    assert (asked.purpose, asked.hint) == (Purpose.READ, hint)


@pytest.mark.parametrize(("render_mode", "hint"), [(0, "Ägir Þór lives here"), (3, "")], ids=["seen", "invisible"])
def test_a_real_page_gives_its_spelling_unless_its_text_is_invisible(
    make_worker: MakeWorker, tmp_path: Path, render_mode: int, hint: str
) -> None:
    document = pymupdf.open()
    page = document.new_page(width=300, height=200)
    page.draw_rect((20, 100, 280, 180), fill=(0, 0, 0))
    page.insert_text((20, 60), "Ägir Þór lives here", fontsize=14, render_mode=render_mode)
    document.save(tmp_path / "page.pdf")
    worker = make_worker()
    assert worker.do(Ocr(mode="image"), tmp_path / "page.pdf").state is JobState.SUCCEEDED
    (asked,) = worker.engine.requests
    assert asked.hint == (prompts.for_language(None).hint(hint) if hint else "")


def test_only_reading_has_a_hint(make_worker: MakeWorker, file: Path) -> None:
    worker = make_worker(StandInReaders("A few words.", GREEK))
    for params in (Summarize(), Caption(), Ask(question="Who?"), Copywrite()):
        assert worker.do(cast("Params", params), file).state is JobState.SUCCEEDED
    assert {asked.hint for asked in worker.engine.requests} == {Request().hint} == {""}
