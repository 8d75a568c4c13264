from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from domain.errors import ParamsError
from domain.params import Ask, Caption, Ocr
from nightowl.evaluation import manifests, owleval
from nightowl.evaluation.items import Task

SHARED = Path(__file__).parents[2].parent / "shared"


def read(task: Task, path: Path, **params: Any) -> list[Any]:
    return manifests.read(task, path, params=params)


def lines(path: Path, *rows: Any) -> Path:
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    return path


def test_json_lines_name_sources_references_and_params(tmp_path: Path) -> None:
    (tmp_path / "b.md").write_text("# Owls\n\n**by night**", encoding="utf-8")
    path = lines(
        tmp_path / "set.jsonl",
        {"source": "a.pdf", "reference": "Owls.", "group": "scan", "params": {"mode": "image"}},
        {"source": "https://x.test/b.pdf", "name": "b", "references": ["@b.md"], "caseless": True},
    )
    first, second = read(Task.OCR, path, pages="1")
    assert (first.name, first.source, first.references) == ("a.pdf", str(tmp_path / "a.pdf"), ("Owls.",))
    assert first.params == Ocr(mode="image", pages="1", output="text")
    assert (first.labels, second.labels) == ({"group": "scan"}, {"caseless": True})
    assert (second.name, second.source) == ("b", "https://x.test/b.pdf")
    assert second.references[0].split() == ["Owls", "by", "night"]


def test_a_csv_is_read_alike(tmp_path: Path) -> None:
    path = tmp_path / "set.csv"
    path.write_text(
        'source,references,params\nc.mp4,"[\'An owl.\', \'A bird.\']","{""frames"": 2}"\n', encoding="utf-8"
    )
    (item,) = read(Task.CAPTION, path)
    assert (item.references, item.params) == (("An owl.", "A bird."), Caption(frames=2))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"source": "a", "colour": 1}', "row 1: unknown key 'colour'"),
        ('{"name": "a"}', "row 1: no source"),
        ('{"source": "a"}\n{"source"', "line 2: not JSON"),
        ("[1]", "line 1: not a JSON object"),
        ('{"source": "a", "reference": "@none.txt"}', "none.txt cannot be read"),
    ],
)
def test_a_wrong_manifest_is_refused_with_its_line(tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "set.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ParamsError, match=says):
        read(Task.OCR, path)
    with pytest.raises(ParamsError, match="cannot be read"):
        read(Task.OCR, tmp_path / "nowhere.jsonl")


def test_youku_captioning_has_golden_captions(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos/two.avi").touch()
    path = tmp_path / "caption_test.csv"
    rows = ("videos/one.mp4,\"['穿白色球服的女生', '一排女生']\"", "videos/two,一只猫头鹰", "videos/three.mp4,")
    path.write_text("\n".join(["video_id:FILE,golden_caption", *rows]), encoding="utf-8")
    one, two, three = read(Task.CAPTION, path, frames=2)
    assert (one.references, one.labels, one.source) == (
        ("穿白色球服的女生", "一排女生"),
        {"youku": "caption"},
        str(tmp_path / "videos/one.mp4"),
    )
    assert one.params == Caption(language="zh", frames=2)
    assert (two.source, two.references) == (str(tmp_path / "videos/two.avi"), ("一只猫头鹰",))
    assert three.references == ()


def test_youku_categories_are_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "cls.csv"
    path.write_text("video_id:FILE,title,label\na.mp4,兔宝宝刚出生,宠物\nb.mp4,一场球赛,体育\n", encoding="utf-8")
    first, _ = read(Task.CAPTION, path)
    assert isinstance(first.params, Ask)
    assert first.params.question is not None
    assert "兔宝宝刚出生" in first.params.question
    assert "体育, 宠物" in first.params.question
    assert first.labels == {"youku": "category", "category": "宠物", "categories": ["体育", "宠物"]}


def test_youku_retrieval_lists_have_a_text_per_clip(tmp_path: Path) -> None:
    path = lines(
        tmp_path / "ret.jsonl", {"clip_name": "a", "caption": ["一", "二"]}, {"clip_name": "b", "caption": "三"}
    )
    first, second = read(Task.CAPTION, path)
    assert (first.references, second.references) == (("一", "二"), ("三",))
    assert first.labels == {"youku": "retrieval"}
    with pytest.raises(ParamsError, match="eval caption"):
        read(Task.OCR, path)


def owls(folder: Path) -> Path:
    rows = [(1, "1.jpg", "What?", ["single_turn"]), (2, "2.jpg", "Who?", ["single_turn", "multi_turn"])]
    rows += [
        (3, "2.jpg", "Why?", ["multi_turn"]),
        (4, "2.jpg", "Alone?", ["single_turn"]),
        (5, "2.jpg", "When?", ["multi_turn"]),
    ]
    keys = ("question_id", "image", "question", "category", "ability")
    return lines(folder / "questions.jsonl", *(dict(zip(keys, (*row, "a,b"), strict=True)) for row in rows))


def test_owleval_conversations_follow_their_picture(tmp_path: Path) -> None:
    items = read(Task.OWLEVAL, owls(tmp_path), language="en")
    assert [item.after for item in items] == [None, None, 2, None, 3]
    assert [one.number for one in owleval.conversation(items, items[4])] == [2, 3]
    assert items[2].labels == {"question_id": 3, "question": "Why?", "abilities": ["a", "b"], "turns": ["multi_turn"]}
    assert items[2].params == Ask(question="Why?", language="en")


def test_owleval_pictures_may_be_elsewhere(tmp_path: Path) -> None:
    path = owls(tmp_path)
    beside, elsewhere = (
        read(Task.OWLEVAL, path)[0],
        manifests.read(Task.OWLEVAL, path, params={}, media=Path("/owls"))[0],
    )
    assert (beside.source, elsewhere.source) == (str(tmp_path / "cases/1.jpg"), "/owls/1.jpg")


def test_a_part_of_a_data_set_keeps_its_conversations_whole(tmp_path: Path) -> None:
    items = read(Task.OWLEVAL, owls(tmp_path))
    assert [item.number for item in manifests.narrow(items, only="5 2.jpg", limit=None)] == [2, 3, 5]
    assert [item.number for item in manifests.narrow(items, only=None, limit=2)] == [1, 2]


def test_answers_are_joined_by_id_and_those_that_are_none_left_out(tmp_path: Path) -> None:
    rows = [{"question_id": 2, "image": "2.png", "answer": " An owl. ", "model_id": "m"}]
    lines(tmp_path / "m_answer.jsonl", *rows, {"question_id": 1, "answer": "无法回溯. ", "model_id": "m"})
    assert owleval.answers(tmp_path) == {"m": {2: "An owl."}}
    with pytest.raises(ParamsError, match="has no answers"):
        owleval.answers(tmp_path / "none")
    lines(tmp_path / "n_answer.jsonl", {"text": "x"})
    with pytest.raises(ParamsError, match="an answer has question_id"):
        owleval.answers(tmp_path)


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason=f"the shared test files are not at {SHARED}")
def test_the_published_files_are_read_whole() -> None:
    items = read(Task.OWLEVAL, SHARED / "owleval")
    assert len(items) == 82
    assert sum(item.after is not None for item in items) == 32
    assert all(Path(item.source).is_file() for item in items)
    found = owleval.answers(SHARED / "owleval/answer")
    assert {name: len(answers) for name, answers in found.items()} == {
        "MMreact": 68,
        "BLIP2": 80,
        "llava-13b": 82,
        "mPLUG_Owl_7b:v1": 82,
        "minigpt4_13b": 82,
        "openflanmingo": 82,
    }
    assert len(read(Task.OCR, SHARED / "data/dev")) == 28
    assert len(read(Task.CAPTION, SHARED / "data/dev")) == 11
    assert len(read(Task.SUMMARIZE, SHARED / "data/dev")) == 20
