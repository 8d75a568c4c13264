"""What loads when. Each check has an interpreter of its own."""

from __future__ import annotations

import os
import subprocess
import sys

HEAVY = ("torch", "transformers", "pymupdf", "decord", "cv2", "numpy", "onnxruntime", "rapidocr", "pebble")
WITHOUT = f"import sys; sys.modules.update(dict.fromkeys({HEAVY!r}))\n"


def python(code: str, **environment: str) -> str:
    """Run code in a fresh interpreter; its output."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_client_needs_no_media_library_and_no_model() -> None:
    code = "import nightowl\nfor name in nightowl.__all__: print(name, getattr(nightowl, name).__module__)"
    printed = python(WITHOUT + code)
    assert "Client nightowl.client" in printed
    assert "Ocr domain.params" in printed


def test_names_that_are_exported_can_be_imported_by_a_star() -> None:
    assert "Client" in python(WITHOUT + "from nightowl import *\nprint(Client, Ocr, Kind, JobState)")


def test_a_wrong_name_is_an_attribute_error() -> None:
    code = "import nightowl\ntry: nightowl.Colour\nexcept AttributeError as error: print(error)"
    assert "'Colour'" in python(code)


def test_the_command_line_explains_itself_without_them() -> None:
    code = WITHOUT + "import nightowl.cli\nsys.argv = ['nightowl', {}]\nnightowl.cli.main()"
    assert "submit" in python(code.format("'--help'"))


def test_every_command_explains_itself_without_them() -> None:
    code = (
        "import nightowl.cli\n"
        "for command in nightowl.cli.COMMANDS:\n"
        "    nightowl.cli.app([command.__name__, '--help'], standalone_mode=False)\n"
        "print('all', len(nightowl.cli.COMMANDS))"
    )
    assert "all 1" in python(WITHOUT + code)


def test_importing_nightowl_loads_nothing_that_is_slow() -> None:
    code = (
        "import sys, nightowl\n"
        "slow = {'pydantic', 'sqlalchemy', 'celery', 'kombu', 'alembic', 'fsspec', 'typer', 'rich'}\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules} & slow))"
    )
    assert python(code).strip() == "[]"


def test_making_a_client_loads_neither_celery_nor_the_worker() -> None:
    code = (
        "import sys\nfrom nightowl import Client, Ocr\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules} & {'celery', 'kombu', 'worker', 'tasks'}))"
    )
    assert python(WITHOUT + code).strip() == "[]"


def test_the_celery_application_reads_no_setting_when_it_is_imported() -> None:
    code = "import worker.app\nprint(worker.app.app.main, 'torch' in sys.modules and sys.modules['torch'])"
    assert python(WITHOUT + code, NIGHTOWL_SLOTS="nonsense").strip() == "nightowl None"


def test_the_celery_application_leaves_the_environment_alone() -> None:
    code = "import os\nbefore = dict(os.environ)\nimport worker.app\nprint(dict(os.environ) == before)"
    assert python(code).strip() == "True"


def test_a_worker_bounds_openmps_spinning_before_torch_loads() -> None:
    code = (
        "import os, sys\nsys.modules['torch'] = None\nimport worker.__main__\nfrom worker.app import app\n"
        "app.worker_main = lambda argv: print(os.environ['GOMP_SPINCOUNT'])\nworker.__main__.main()"
    )
    assert python(code, NIGHTOWL_ENGINE="fake").strip() == "2000"
    assert python(code, NIGHTOWL_ENGINE="fake", GOMP_SPINCOUNT="7").strip() == "7"


def test_its_settings_are_read_when_its_configuration_is_asked_for() -> None:
    code = "from worker.app import app\nprint(app.conf.worker_pool, app.conf.broker_url)"
    assert (
        python(WITHOUT + code, NIGHTOWL_BROKER_URL="redis://queue/3").strip() == "worker.pool:TaskPool redis://queue/3"
    )


def test_the_values_of_the_domain_load_no_other_package_of_ours() -> None:
    code = (
        "import sys, domain.jobs, domain.params, domain.settings, domain.limits, domain.retry, domain.messages\n"
        "ours = {'storage', 'mplug_owl', 'worker', 'tasks', 'nightowl'}\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules} & ours))"
    )
    assert python(code).strip() == "[]"
