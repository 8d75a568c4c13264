"""Ids of text are those of transformers 4.28, from whatever tokenizer files a folder has."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor
from tokenizers import Tokenizer
from transformers import LlamaTokenizer, PreTrainedTokenizerFast

from mplug_owl.checkpoint import CheckpointError
from mplug_owl.tokenization import MARK, MplugOwlTokenizer, convert

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40).filter(lambda text: "<" not in text)


@pytest.fixture(scope="session")
def llama(tiny: Callable[..., Path]) -> MplugOwlTokenizer:
    return MplugOwlTokenizer.from_pretrained(tiny("image", "llama"))


@pytest.fixture(scope="session")
def bloom(tiny: Callable[..., Path]) -> MplugOwlTokenizer:
    return MplugOwlTokenizer.from_pretrained(tiny("image", "bloom"))


@pytest.fixture
def folder(tiny: Callable[..., Path], tmp_path: Path) -> Path:
    """The tokenizer files of a LLaMA checkpoint, to be changed."""
    for name in ("tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(tiny("image", "llama") / name, tmp_path / name)
    return tmp_path


def pieces(tokenizer: MplugOwlTokenizer, text: str) -> list[str]:
    made = tokenizer.convert_ids_to_tokens(tokenizer.piece_ids(text))
    return list(made)


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@given(text=TEXTS)
def test_every_piece_gets_a_mark_even_before_a_space(llama: MplugOwlTokenizer, text: str) -> None:
    made = "".join(pieces(llama, " " + text))
    assert made.startswith(MARK + MARK)


def test_a_space_before_a_word_stands_alone(llama: MplugOwlTokenizer) -> None:
    assert pieces(llama, " the") == [MARK, *pieces(llama, "the")]


def test_ids_of_an_empty_piece_are_none(llama: MplugOwlTokenizer, bloom: MplugOwlTokenizer) -> None:
    assert llama.piece_ids("") == llama.training_piece_ids("") == bloom.piece_ids("") == []


@given(text=TEXTS)
def test_training_has_the_ids_of_sentencepiece(tiny: Callable[..., Path], llama: MplugOwlTokenizer, text: str) -> None:
    model = SentencePieceProcessor(model_file=str(tiny("image", "llama") / "tokenizer.model"))
    assert llama.training_piece_ids(text) == model.encode(text)


def test_special_tokens_in_text(llama: MplugOwlTokenizer) -> None:
    assert 2 not in llama.piece_ids("x</s>y")  # as 4.28's fast tokenizer, which finds it only behind a space
    assert llama.piece_ids("x </s>y").count(2) == 1
    assert llama.training_piece_ids("x</s>y") == [*llama.training_piece_ids("x"), 2, *llama.training_piece_ids("y")]


def test_the_best_piece_has_no_merge(tiny: Callable[..., Path]) -> None:
    model = SentencePieceProcessor(model_file=str(tiny("image", "llama") / "tokenizer.model"))
    best = next(model.id_to_piece(number) for number in range(259, 640) if model.get_score(number) == 0)
    merges = {"".join(merge) for merge in json.loads(convert(model).to_str())["model"]["merges"]}
    others = {model.id_to_piece(number) for number in range(259, 640) if len(model.id_to_piece(number)) > 1}
    assert others - merges == {best}


@given(text=TEXTS)
def test_bloom_has_one_set_of_ids(tiny: Callable[..., Path], bloom: MplugOwlTokenizer, text: str) -> None:
    plain = PreTrainedTokenizerFast(tokenizer_file=str(tiny("image", "bloom") / "tokenizer.json"))  # type: ignore[no-untyped-call]
    assert bloom.piece_ids(text) == bloom.training_piece_ids(text) == plain(text, add_special_tokens=False)["input_ids"]


@given(text=TEXTS)
@example(text="\u2581")
def test_text_comes_back(llama: MplugOwlTokenizer, bloom: MplugOwlTokenizer, text: str) -> None:
    # U+2581 is how SentencePiece writes a space, so that one cannot be told from the other.
    assert llama.decode(llama.piece_ids(text)) == text.replace("\u2581", " ")
    assert bloom.decode(bloom.piece_ids(text)) == text


def test_the_tokenizer_json_of_a_later_transformers_is_not_followed(folder: Path, llama: MplugOwlTokenizer) -> None:
    LlamaTokenizer.from_pretrained(folder).save_pretrained(folder)
    text = " two  spaces and </s>"
    assert LlamaTokenizer.from_pretrained(folder).encode(text, add_special_tokens=False) != llama.piece_ids(text)
    assert MplugOwlTokenizer.from_pretrained(folder).piece_ids(text) == llama.piece_ids(text)


def test_without_tokenizer_model_it_still_gets_its_marks(folder: Path, llama: MplugOwlTokenizer) -> None:
    LlamaTokenizer.from_pretrained(folder).save_pretrained(folder)
    (folder / "tokenizer.model").unlink()
    later = MplugOwlTokenizer.from_pretrained(folder)
    for text in ("the page", "\nHuman: ", "AI: ", "", "描述"):
        assert later.piece_ids(text) == later.training_piece_ids(text) == llama.piece_ids(text)
    assert pieces(later, " the")[0].startswith(MARK)
    assert "".join(pieces(later, " the")).startswith(MARK + MARK)


def test_padding_and_truncation_of_a_file_are_left_out(tiny: Callable[..., Path], tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_file(str(tiny("image", "bloom") / "tokenizer.json"))
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=50)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert 3 <= len(MplugOwlTokenizer.from_pretrained(tmp_path).piece_ids("Human: how many?")) < 50


def test_special_tokens_that_are_empty_or_unknown_are_the_usual_ones(folder: Path) -> None:
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        edit(folder / name, bos_token="", eos_token={"content": ""}, unk_token=None, pad_token="[PAD]")
    tokenizer = MplugOwlTokenizer.from_pretrained(folder)
    ids = (tokenizer.unk_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    assert ids == (0, 1, 2, 0)


def test_a_tokenizer_without_any_end_token_is_refused(tmp_path: Path, tiny: Callable[..., Path]) -> None:
    content = json.loads((tiny("image", "bloom") / "tokenizer.json").read_text())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] != "</s>"]
    content["model"]["vocab"]["other"] = content["model"]["vocab"].pop("</s>")
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="no eos_token: neither None nor </s>"):
        MplugOwlTokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer.model"])
def test_a_broken_file_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match=name):
        MplugOwlTokenizer.from_pretrained(tmp_path)


def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected tokenizer\.json or tokenizer\.model"):
        MplugOwlTokenizer.from_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="none"):
        MplugOwlTokenizer.from_pretrained(tmp_path / "none", local_files_only=True)


def test_a_fast_tokenizer_of_no_folder_is_adopted(tiny: Callable[..., Path], bloom: MplugOwlTokenizer) -> None:
    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    file = tiny("image", "bloom") / "tokenizer.json"
    plain = PreTrainedTokenizerFast(tokenizer_file=str(file), **names)  # type: ignore[no-untyped-call]
    adopted = MplugOwlTokenizer.adopt(plain)
    assert adopted.piece_ids("Human: how many?") == bloom.piece_ids("Human: how many?")
    assert adopted.pad_token_id == 3


def test_an_adopted_tokenizer_is_saved_for_the_original(tiny: Callable[..., Path], tmp_path: Path) -> None:
    plain = PreTrainedTokenizerFast(tokenizer_file=str(tiny("image", "bloom") / "tokenizer.json"))  # type: ignore[no-untyped-call]
    MplugOwlTokenizer.adopt(plain).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["tokenizer_class"] == "BloomTokenizerFast"
    assert json.loads((tmp_path / "special_tokens_map.json").read_text())["eos_token"] == "</s>"


def test_saved_merges_have_the_form_that_old_readers_know(bloom: MplugOwlTokenizer, tmp_path: Path) -> None:
    bloom.save_pretrained(tmp_path)
    model = json.loads((tmp_path / "tokenizer.json").read_text())["model"]
    assert all(isinstance(merge, str) for merge in model["merges"])
    assert "ignore_merges" not in model
    assert not (tmp_path / "tokenizer.model").exists()


def test_tokens_added_later_are_known_to_prompts(tiny: Callable[..., Path]) -> None:
    tokenizer = MplugOwlTokenizer.from_pretrained(tiny("image", "bloom"))
    tokenizer.add_tokens(["<page>"])
    assert tokenizer.piece_ids("a<page>b")[1] == len(tokenizer) - 1


def test_calling_the_base_class_leaves_prompts_alone(tiny: Callable[..., Path]) -> None:
    tokenizer = MplugOwlTokenizer.from_pretrained(tiny("image", "llama"))
    before = tokenizer.piece_ids("Human: how many?")
    tokenizer(["Human: how many?"], truncation=True, max_length=2, padding="max_length")
    assert tokenizer.piece_ids("Human: how many?") == before
