from __future__ import annotations

import pytest

from nightowl.evaluation import metrics, texts
from nightowl.evaluation.cider import Cider

REFERENCES = [
    ["a man rides a brown horse on the beach", "a person riding a horse near the sea"],
    ["two dogs play with a red ball in the park", "dogs are playing in a park"],
    ["a plate of food with rice and vegetables", "rice and green vegetables on a white plate"],
    ["a woman reads a book under a tree"],
]
TEXTS = [
    "a man riding a horse on the beach",
    "two dogs playing in the park",
    "a plate with rice",
    "a woman reads a book under a tree",
]


def test_cider_gives_the_values_of_the_reference_implementation() -> None:
    cider = Cider(REFERENCES)
    found = [cider.score(text, references) for text, references in zip(TEXTS, REFERENCES, strict=True)]
    # pycocoevalcap 1.2, CiderScorer(n=4, sigma=6.0), on the same words
    assert found == pytest.approx([3.27583722, 2.52838604, 1.57121605, 10.0], abs=1e-7)


def test_cider_knows_nothing_where_nothing_is_shared_and_is_not_gamed_by_repetition() -> None:
    cider = Cider(REFERENCES)
    assert cider.score("entirely other words stand here", REFERENCES[0]) == 0
    assert cider.score("", REFERENCES[0]) == 0
    assert cider.score("horse horse horse horse", REFERENCES[0]) <= cider.score("horse", REFERENCES[0])


def test_error_rates_count_letters_and_words() -> None:
    letters = metrics.character_edits("owls fly", "owl flys")
    assert (letters.wrong, letters.total, letters.rate) == (2, 8, 0.25)
    assert metrics.word_edits("two owls fly", "two owl fly").rate == pytest.approx(1 / 3)
    assert metrics.character_edits("", "").rate == 0
    assert metrics.character_edits("", "invented").rate == 1
    assert metrics.word_edits("owl", "").rate == 1


LEFT, RIGHT = "one two three four five six", "red green blue black white grey"


@pytest.mark.parametrize(
    ("text", "order"),
    [
        (f"{LEFT}\n{RIGHT}", 1.0),
        (f"{RIGHT}\n{LEFT}", 0.5),
        ("one two three red green blue four five six black white grey", 0.75),
        ("grey white black blue green red six five four three two one", 1 / 12),
        (f"{LEFT} and much else that stands nowhere {RIGHT}", 1.0),
        ("one xx three four yy six", 1.0),
        ("one", None),
        ("", None),
    ],
)
def test_order_is_the_share_of_common_words_in_the_same_order(text: str, order: float | None) -> None:
    assert metrics.order(f"{LEFT}\n{RIGHT}", text) == (None if order is None else pytest.approx(order))


def test_text_that_repeats_itself_is_in_order_where_nothing_moved() -> None:
    text = f"{LEFT}\n{RIGHT}\n" * 8
    assert metrics.order(text, text) == 1


def test_rouge_bleu_and_meteor_of_equal_and_of_foreign_texts() -> None:
    same, other = TEXTS[3], "nothing of it at all"
    assert metrics.rouge(same, [same])["rougeL"] == pytest.approx(1)
    assert metrics.bleu(same, [same]) == pytest.approx(1)
    for nothing in ("", "zzz"):
        assert metrics.rouge(nothing, [same])["rougeL"] == metrics.bleu(nothing, [same]) == 0
    assert metrics.meteor_exact_stem(same, [same]) > 0.99
    assert metrics.meteor_exact_stem(other, [same]) < 0.2
    assert metrics.meteor_exact_stem("", [same]) == 0


def test_meteor_takes_stems_for_equal_and_synonyms_for_different() -> None:
    assert metrics.meteor_exact_stem("dogs plays", ["dog play"]) == metrics.meteor_exact_stem("dog play", ["dog play"])
    assert metrics.meteor_exact_stem("automobile", ["car"]) == 0


def test_rouge_values_by_hand() -> None:
    found = metrics.rouge("the cat sat", ["the cat lay down", "a dog"])
    assert found["rouge1"] == pytest.approx(2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4))
    assert found["rouge2"] == pytest.approx(2 * (1 / 2) * (1 / 3) / (1 / 2 + 1 / 3))


def test_chinese_is_measured_by_characters() -> None:
    assert metrics.rouge("猫头鹰在飞", ["猫头鹰在睡"])["rouge1"] == pytest.approx(0.8)
    assert texts.tokens("猫头鹰 flies, 2 times") == ["猫", "头", "鹰", "flies", "2", "times"]


def test_the_whole_is_not_the_mean_and_references_may_be_uneven() -> None:
    assert metrics.corpus_bleu(TEXTS, REFERENCES) == pytest.approx(0.5773722, abs=1e-6)  # sacrebleu 2.6.0
    assert metrics.corpus_bleu([TEXTS[3]], [REFERENCES[3]]) == pytest.approx(1)


def test_short_texts_are_found_nearly_letter_by_letter() -> None:
    assert metrics.share_found(["Midroll", "ExoPlayer ad test"], "text: “ExoPlayer ad tesl”, MIDROLL") == 1
    assert metrics.share_found(["Midroll", "Trailer"], "midroll") == 0.5


def test_variants_are_as_different_as_their_words() -> None:
    assert metrics.distinct(["owls at night", "night owls at"]) == pytest.approx(0)
    assert metrics.distinct(["owls at night", "lamp for readers"]) > 0.5
    assert metrics.distinct(["alone"]) == 1


def test_markdown_becomes_its_words() -> None:
    table = "| a | b |\n|---|:--:|\n| 1 | snake_case |"
    text = f"# A head\n\n- **bold** and _thin_\n\n{table}\n\n[link](http://x) \\* <!-- image -->"
    wanted = ["A", "head", "bold", "and", "thin", "a", "b", "1", "snake_case", "link", "*"]
    assert texts.without_markdown(text).split() == wanted
    assert texts.folded("a hyphen-\nated  word\n") == "a hyphenated word"
    assert texts.without_page_marks("=== page 1 ===\none\f=== page 2 ===\ntwo").split() == ["one", "two"]
