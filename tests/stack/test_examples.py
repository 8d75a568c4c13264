"""The programs under docs/examples do what they say, against a worker that runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.stack.conftest import Site

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "docs" / "examples").glob("*.py"))
pytestmark = pytest.mark.stack


@pytest.mark.parametrize(
    "database_url", ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgres)], indirect=True
)
def test_every_example_ends_with_its_job_done(site: Site, tmp_path: Path) -> None:
    site.start_worker()
    page = tmp_path / "page.txt"
    page.write_text("A page that somebody wrote.\n")
    environment = {**os.environ, **site.environment, "PYTHONPATH": str(ROOT)}
    environment["DATABASE_URL"] = environment["NIGHTOWL_DATABASE_URL"]
    started = {
        example.name: subprocess.Popen(
            [sys.executable, str(example), str(page)],
            env=environment,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for example in EXAMPLES
    }
    for name, program in started.items():
        out, err = program.communicate(timeout=120)
        assert program.returncode == 0, f"{name}: {err.decode()}"
        assert "succeeded" in out.decode(), name


def test_there_is_an_example_for_each_way_in() -> None:
    assert {example.stem for example in EXAMPLES} == {"from_asyncio", "from_celery", "from_python", "from_sql"}
