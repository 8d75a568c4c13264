from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from domain.errors import SetupError
from worker.engines.base import EngineConfig
from worker.engines.fake import FakeEngine
from worker.engines.registry import create_engine, resolve

if TYPE_CHECKING:
    from pathlib import Path


def not_an_engine(config: EngineConfig) -> object:
    return object()


def my_engine(config: EngineConfig) -> FakeEngine:
    return FakeEngine(model="mine")


def test_an_engine_of_ones_own_is_found_by_its_path(tmp_path: Path) -> None:
    engine = create_engine(f"{__name__}:my_engine", EngineConfig(cache_dir=tmp_path))
    assert engine.model == "mine"
    engine.close()


def test_fake_takes_its_switches_from_the_model(tmp_path: Path) -> None:
    engine = create_engine("fake", EngineConfig(cache_dir=tmp_path, model="text=hi"))
    assert (engine.name, engine.model) == ("fake", "text=hi")
    engine.close()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("owl", "no engine named 'owl'"),
        (":x", "no engine named"),
        ("no_such_package.engine:make", "importing no_such_package.engine failed"),
        (f"{__name__}:nothing", "no callable named 'nothing'"),
        (f"{__name__}:not_an_engine", "is not an Engine"),
        ("mplug-owl", "NIGHTOWL_MODEL"),
    ],
)
def test_a_name_that_leads_nowhere_says_why(name: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=says):
        create_engine(name, EngineConfig(cache_dir=tmp_path))


@pytest.mark.parametrize(
    ("name", "model", "chosen"),
    [("auto", None, "experts"), ("auto", "/models/owl", "mplug-owl"), ("fake", "/models/owl", "fake")],
)
def test_auto_depends_on_the_model(name: str, model: str | None, chosen: str) -> None:
    assert resolve(name, model=model) == chosen


def test_fake_and_registry_load_nothing_heavy() -> None:
    code = (
        "import sys, worker.engines.fake, worker.engines.registry\n"
        "heavy = {'torch', 'transformers', 'rapidocr', 'onnxruntime', 'cv2'} & set(sys.modules)\n"
        "raise SystemExit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
