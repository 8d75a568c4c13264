from __future__ import annotations

import pytest

from domain.messages import BULK, CPU, GPU, INTERACTIVE, NORMAL, celery_options, message_priority, queue_for
from domain.settings import Settings


@pytest.mark.parametrize(
    ("queue", "engine", "name"),
    [
        (CPU, None, "cpu"),
        (CPU, "fake", "cpu"),  # any worker may plan, whatever engine is wanted
        (GPU, None, "gpu"),
        (GPU, "fake", "gpu.fake"),
    ],
)
def test_work_that_asks_for_an_engine_goes_to_its_queue(queue: str, engine: str | None, name: str) -> None:
    assert queue_for(queue, engine) == name


@pytest.mark.parametrize(("priority", "step"), [(-5, BULK), (0, NORMAL), (1, INTERACTIVE), (100, INTERACTIVE)])
def test_jobs_above_zero_go_first(priority: int, step: int) -> None:
    assert message_priority(priority) == step
    assert INTERACTIVE < NORMAL < BULK < 10


def test_messages_are_json_without_results_and_the_broker_is_the_set_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTOWL_BROKER_URL", "redis://queue/0")
    options = celery_options(Settings())
    assert options["broker_url"] == "redis://queue/0"
    assert options["accept_content"] == ["json"]
    assert options["task_serializer"] == "json"
    assert options["task_ignore_result"] is True
    assert options["task_acks_late"] is False
    assert "result_backend" not in options
