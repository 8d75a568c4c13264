"""How near a text is to its references. Rates and scores are shares (0 to 1) unless their name says otherwise.

Words are those of texts.tokens, so that Chinese is measured by characters, and signs and case do not count.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import jiwer
import sacrebleu
from nltk.stem.porter import PorterStemmer
from nltk.translate.meteor_score import meteor_score
from rapidfuzz import fuzz
from rapidfuzz.distance import LCSseq
from rouge_score import rouge_scorer

from nightowl.evaluation import texts
from nightowl.evaluation.texts import tokens

if TYPE_CHECKING:
    from collections.abc import Sequence

ROUGE = ("rouge1", "rouge2", "rougeL")


@dataclass(frozen=True, slots=True, kw_only=True)
class Edits:
    """Wrong, missing and needless units, and how many units the reference has."""

    wrong: int
    total: int

    @property
    def rate(self) -> float:
        return self.wrong / self.total if self.total else float(self.wrong > 0)


def character_edits(reference: str, text: str) -> Edits:
    if not reference:
        return Edits(wrong=len(text), total=0)
    return _edits(jiwer.process_characters(reference, text))


def word_edits(reference: str, text: str) -> Edits:
    if not reference:
        return Edits(wrong=len(text.split()), total=0)
    return _edits(jiwer.process_words(reference, text))


def _edits(output: Any) -> Edits:
    wrong = output.substitutions + output.deletions + output.insertions
    return Edits(wrong=wrong, total=output.substitutions + output.deletions + output.hits)


def order(reference: str, text: str) -> float | None:
    """Of the words that both texts have, the share that stands in the same order: the longest sequence of words that
    runs through both, by all that they share. None where they share fewer than two words."""
    wanted, found = tokens(reference), tokens(text)
    shared = (Counter(wanted) & Counter(found)).total()
    return LCSseq.similarity(wanted, found) / shared if shared >= 2 else None


class _Words:
    """rouge-score's tokenizer: its own knows only ASCII."""

    def tokenize(self, text: str) -> list[str]:
        return tokens(text)


_scorer = rouge_scorer.RougeScorer(ROUGE, tokenizer=_Words())


def rouge(text: str, references: Sequence[str]) -> dict[str, float]:
    """ROUGE-1, -2 and -L, the F measure, of the reference that is nearest by each."""
    found = _scorer.score_multi(list(references), text)
    return {name: float(found[name].fmeasure) for name in ROUGE}


def bleu(text: str, references: Sequence[str]) -> float:
    """BLEU-4 of one text, smoothed as sacrebleu does (exp) and with as many orders as it has words for."""
    spaced = [_spaced(reference) for reference in references]
    score = sacrebleu.sentence_bleu(_spaced(text), spaced, tokenize="none", use_effective_order=True)
    return float(score.score) / 100


def corpus_bleu(predictions: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """BLEU-4 of a whole data set; its texts need not have equally many references."""
    most = max(len(row) for row in references)
    streams: Any = [[_spaced(row[at]) if at < len(row) else None for row in references] for at in range(most)]
    score = sacrebleu.corpus_bleu([_spaced(text) for text in predictions], streams, tokenize="none", force=True)
    return float(score.score) / 100


def _spaced(text: str) -> str:
    return " ".join(tokens(text))


class _NoSynonyms:
    """Stands where METEOR asks WordNet. WordNet's data is not part of any package, so that stage is left out."""

    def synsets(self, word: str) -> list[Any]:
        return []


def meteor_exact_stem(text: str, references: Sequence[str]) -> float:
    """METEOR without its stage of synonyms: equal words and equal stems (Porter) only, so lower than full METEOR."""
    return float(
        meteor_score(
            [tokens(reference) for reference in references],
            tokens(text),
            stemmer=PorterStemmer(),
            wordnet=_NoSynonyms(),
        )
    )


def share_found(wanted: Sequence[str], text: str) -> float:
    """Share of some short texts (those on screen, say) that stand in a text, nearly letter by letter."""
    inside = texts.folded(text, caseless=True)
    found = [fuzz.partial_ratio(texts.folded(one, caseless=True), inside) >= 85 for one in wanted]
    return sum(found) / len(found)


def distinct(variants: Sequence[str]) -> float:
    """How different texts are from one another, 0 to 1: one less the mean likeness of their pairs, by words."""
    pairs = list(combinations([_spaced(variant) for variant in variants], 2))
    return 1 - sum(fuzz.token_sort_ratio(one, other) for one, other in pairs) / (100 * len(pairs)) if pairs else 1.0
