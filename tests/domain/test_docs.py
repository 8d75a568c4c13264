from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def generate() -> Any:
    spec = importlib.util.spec_from_file_location("docs_generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["settings.md", "kinds.md"])
def test_the_page_is_what_the_code_makes(generate: Any, name: str) -> None:
    assert (DOCS / name).read_text() == generate.PAGES[name](), "run: python docs/generate.py"


def test_no_page_is_made_that_is_not_compared(generate: Any) -> None:
    assert set(generate.PAGES) == {"settings.md", "kinds.md"}


@pytest.mark.parametrize("page", ["settings.md", "kinds.md"])
def test_every_row_of_a_table_has_its_columns_and_a_meaning(generate: Any, page: str) -> None:
    rows = [line for line in generate.PAGES[page]().splitlines() if line.startswith("| `")]
    assert rows
    for row in rows:
        cells = [cell.strip() for cell in row.replace("\\|", "").strip("|").split("|")]
        assert len(cells) == (3 if page == "settings.md" else 4), row
        assert cells[-1], row
