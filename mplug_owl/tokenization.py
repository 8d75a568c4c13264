"""The tokenizers of published checkpoints, giving the ids that transformers 4.28 gave.

A prompt is tokenized in pieces (processing.py). LLaMA's original put sentencepiece's mark for a space before every
piece, also before one that begins with a space; today's LlamaTokenizer does not, so its classes cannot be used. There
are two sets of ids, and checkpoints were trained with one and run with the other:

* for inference, the "fast" tokenizer that 4.28 converted from `tokenizer.model`. The conversion loses the merge of the
  best-scored piece (two spaces, in LLaMA), and finds `</s>` in text only where a mark for a space precedes it;
* for training, sentencepiece itself, with the text split at `<s>`, `</s>` and `<unk>` first.

BLOOM has one tokenizer, `tokenizer.json`, for both.
"""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from sentencepiece import SentencePieceProcessor
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors
from transformers import PreTrainedTokenizerFast

from mplug_owl import checkpoint
from mplug_owl.image_processing import read_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import PreTrainedTokenizerBase

_JSON, _MODEL = "tokenizer.json", "tokenizer.model"
# Read for the special tokens, and written again as they were: what 4.28 makes of a tokenizer depends on their flags.
_CONFIG, _SPECIAL = "tokenizer_config.json", "special_tokens_map.json"
_NAMES = ("unk_token", "bos_token", "eos_token", "pad_token")
_USUAL = {"unk_token": ("<unk>",), "bos_token": ("<s>",), "eos_token": ("</s>",), "pad_token": ("<pad>", "<unk>")}

MARK = "▁"
"""What sentencepiece writes for a space."""
_NEWLINE_BYTE = "<0x0A>"


class MplugOwlTokenizer(PreTrainedTokenizerFast):
    """A checkpoint's tokenizer. `piece_ids` and `training_piece_ids` are what prompts are encoded with.

    Both may be called from many threads: they use a tokenizer of their own, on which nobody sets padding or truncation.
    The base class has another, for ids to text, and sets them on that one when it is called.

    Args:
        pieces: the tokenizer of inference.
        sentencepiece: that of training, if it is another.
        published: tokenizer_config.json and special_tokens_map.json by their names, as they were found.
        special: special tokens by name ("pad_token"), before those of the files.

    Raises:
        ValueError: the tokenizer knows no begin, end or unknown token.
    """

    def __init__(
        self,
        pieces: Tokenizer,
        *,
        sentencepiece: SentencePieceProcessor | None = None,
        published: Mapping[str, dict[str, Any]] | None = None,
        special: Mapping[str, str] | None = None,
    ) -> None:
        published = published or {}
        pieces.no_padding()
        pieces.no_truncation()
        given = {**published.get(_CONFIG, {}), **published.get(_SPECIAL, {}), **(special or {})}
        names = _special_tokens(pieces, given)
        self._tokenizer = _for_text(pieces)  # found there by the base class; as an argument it would be copied again
        super().__init__(padding_side="left", **names)  # type: ignore[no-untyped-call]
        self._pieces = pieces
        self._sentencepiece = sentencepiece
        self._published = dict(published)
        ids = {token: pieces.token_to_id(token) for token in names.values()}
        self._special_ids = {token: number for token, number in ids.items() if number is not None}
        longest_first = sorted(self._special_ids, key=len, reverse=True)
        self._at_special = re.compile(f"({'|'.join(map(re.escape, longest_first))})")

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: str | Path, **kwargs: Any
    ) -> Self:
        """From the folder of a checkpoint, or a repository of the hub.

        `tokenizer.json` is taken if it is BLOOM's or transformers 4.28 wrote it, else `tokenizer.model`, converted.

        Raises:
            ValueError: neither is there, or it is of another kind.
            CheckpointError: neither a folder nor to be had from the hub.
        """
        folder = checkpoint.fetch(pretrained_model_name_or_path, kwargs)
        published = {name: read_json(folder / name) for name in (_CONFIG, _SPECIAL) if (folder / name).is_file()}
        model = _from_model(folder / _MODEL) if (folder / _MODEL).is_file() else None
        pieces = _from_json(folder / _JSON) if (folder / _JSON).is_file() else None
        if model is not None and (pieces is None or not _marks_every_piece(pieces)):
            pieces = convert(model)
        if pieces is None:
            raise ValueError(f"{folder}: no tokenizer: expected {_JSON} or {_MODEL}")
        return cls(_marking_every_piece(pieces), sentencepiece=model, published=published)

    @classmethod
    def adopt(cls, tokenizer: PreTrainedTokenizerBase) -> Self:
        """The same of a tokenizer that AutoTokenizer made: read anew from its folder if it came from one.

        Raises:
            TypeError: it came from no folder and is not of the "fast" kind.
        """
        if isinstance(tokenizer, cls):
            return tokenizer
        folder = Path(tokenizer.name_or_path or "no folder")
        if (folder / _JSON).is_file() or (folder / _MODEL).is_file():
            return cls.from_pretrained(folder)
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise TypeError(
                f"tokenizer is a {type(tokenizer).__name__}: give MplugOwlTokenizer.from_pretrained(folder)"
            )
        special = {name: str(token) for name in _NAMES if (token := getattr(tokenizer, name)) is not None}
        return cls(_marking_every_piece(copy.deepcopy(backend)), special=special)

    def piece_ids(self, text: str) -> list[int]:
        """Ids of a piece of a prompt, no begin and no end token; what 4.28's fast tokenizer gave."""
        text.encode()  # half a surrogate pair: a UnicodeEncodeError that names its place, not "must be str"
        ids: list[int] = self._pieces.encode(text, add_special_tokens=False).ids
        return ids

    def training_piece_ids(self, text: str) -> list[int]:
        """The ids that checkpoints were trained on. Where there is no sentencepiece model, those of inference."""
        if self._sentencepiece is None:
            return self.piece_ids(text)
        text.encode()
        ids: list[int] = []
        for part in self._at_special.split(text):
            ids += [self._special_ids[part]] if part in self._special_ids else self._sentencepiece.encode(part)
        return ids

    def save_pretrained(self, save_directory: str | Path, **_: Any) -> tuple[str, ...]:  # type: ignore[override]
        """Write the files that this class reads, as transformers 4.28 wrote and reads them. Returns their paths."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        contents = {_CONFIG: self._config(), _SPECIAL: {name: getattr(self, name) for name in _NAMES}}
        contents |= self._published
        for name, content in contents.items():
            _write_json(folder / name, content)
        _write_json(folder / _JSON, _published_form(self._pieces))
        written = [*contents, _JSON]
        if self._sentencepiece is not None:
            (folder / _MODEL).write_bytes(self._sentencepiece.serialized_model_proto())
            written.append(_MODEL)
        return tuple(str(folder / name) for name in written)

    def _config(self) -> dict[str, Any]:
        llama = self._pieces.token_to_id(_NEWLINE_BYTE) is not None
        return {
            "tokenizer_class": "LlamaTokenizer" if llama else "BloomTokenizerFast",
            "clean_up_tokenization_spaces": False,
            **{name: getattr(self, name) for name in _NAMES},
        }

    def _add_tokens(self, new_tokens: Any, special_tokens: bool = False) -> int:
        """Tokens that are added later are known to `piece_ids` too."""
        pieces = copy.deepcopy(self._pieces)
        (pieces.add_special_tokens if special_tokens else pieces.add_tokens)(new_tokens)
        self._pieces = pieces
        return int(super()._add_tokens(new_tokens, special_tokens=special_tokens))


def convert(model: SentencePieceProcessor) -> Tokenizer:
    """The BPE tokenizer that transformers 4.28 converted a sentencepiece model into.

    The parts of a piece merge if they are pieces too; merges are ranked by the score of what they make, then by the ids
    of the left and the right part. A piece whose score is 0 gets no merge: that is each byte, and the best piece.

    Raises:
        ValueError: this is no BPE model with bytes to fall back on, as LLaMA's is.
    """
    pieces = [model.id_to_piece(number) for number in range(model.get_piece_size())]
    ids = {piece: number for number, piece in enumerate(pieces)}
    if _NEWLINE_BYTE not in ids:
        raise ValueError(f"{_MODEL} has no piece {_NEWLINE_BYTE}: a model with bytes to fall back on is needed")
    ranked = sorted(
        (-score, ids[piece[:cut]], ids[piece[cut:]])
        for number, piece in enumerate(pieces)
        if (score := model.get_score(number))
        for cut in range(1, len(piece))
        if piece[:cut] in ids and piece[cut:] in ids
    )
    merges = [(pieces[left], pieces[right]) for _, left, right in ranked]
    unknown, begin, end = (pieces[number] for number in (model.unk_id(), model.bos_id(), model.eos_id()))
    tokenizer = Tokenizer(models.BPE(ids, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    # `normalized` makes the mark part of a special token too, so that it is found only behind one.
    tokenizer.add_special_tokens([AddedToken(token, normalized=True) for token in (unknown, begin, end)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", pair=f"{begin} $A $B:0", special_tokens=[(begin, ids[begin])]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(MARK, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return _marking_every_piece(tokenizer)


def _from_model(file: Path) -> SentencePieceProcessor:
    try:
        return SentencePieceProcessor(model_proto=file.read_bytes())
    except RuntimeError as error:
        raise ValueError(f"{file}: not a sentencepiece model ({error})") from error


def _from_json(file: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # the binding raises no narrower type
        raise ValueError(f"{file}: not a tokenizer ({error})") from error


def _marks_every_piece(tokenizer: Tokenizer) -> bool:
    """Whether ids are the original's. A LLaMA's must put a mark before every piece; one over bytes puts none."""
    return tokenizer.token_to_id(_NEWLINE_BYTE) is None or "Prepend" in str(tokenizer.normalizer)


def _marking_every_piece(tokenizer: Tokenizer) -> Tokenizer:
    """The same tokenizer; if it is a LLaMA's that a later transformers converted, with the original's marks."""
    if tokenizer.token_to_id(_NEWLINE_BYTE) is not None:
        tokenizer.pre_tokenizer = None
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(MARK), normalizers.Replace(" ", MARK)])
    return tokenizer


def _for_text(tokenizer: Tokenizer) -> Tokenizer:
    """A copy of the tokenizer for turning ids into text.

    Of special tokens that are `normalized`, today's library writes the mark too: `▁</s>` for id 2. It then does not
    take them for special, and would leave them in a text from which they are to be left out.
    """
    if not any(token.special and token.normalized for token in tokenizer.get_added_tokens_decoder().values()):
        return copy.deepcopy(tokenizer)
    whole: dict[str, Any] = json.loads(tokenizer.to_str())
    for token in whole["added_tokens"]:
        token["normalized"] &= not token["special"]
    return Tokenizer.from_str(json.dumps(whole))


def _special_tokens(tokenizer: Tokenizer, given: Mapping[str, Any]) -> dict[str, str]:
    """Special tokens by name: those given, unless empty or not in the vocabulary (as some early conversions had them),
    else the usual ones.

    Raises:
        ValueError: there is no begin, end or unknown token.
    """
    found = {}
    for name, usual in _USUAL.items():
        token = given.get(name)
        content = token.get("content") if isinstance(token, dict) else token
        known = [token for token in (content, *usual) if token and tokenizer.token_to_id(token) is not None]
        if not known:
            raise ValueError(
                f"the tokenizer has no {name}: neither {content!r} nor {' nor '.join(usual)} is known to it"
            )
        found[name] = known[0]
    return found


def _published_form(tokenizer: Tokenizer) -> dict[str, Any]:
    """tokenizer.json as the tokenizers library of 4.28's time wrote it: newer files it cannot read."""
    whole: dict[str, Any] = json.loads(tokenizer.to_str())
    model = whole["model"]
    if not model.get("ignore_merges", False):
        model.pop("ignore_merges", None)
    if not any(" " in part for merge in model["merges"] for part in merge):
        model["merges"] = [" ".join(merge) for merge in model["merges"]]
    return whole


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
