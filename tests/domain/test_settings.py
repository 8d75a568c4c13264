from __future__ import annotations

import stat
import tempfile
from pathlib import Path

import pytest
from pydantic import ValidationError
from sqlalchemy import make_url

from domain.limits import Limits
from domain.settings import SOCKET_PATH_MAX, Settings, config_file, origins


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "some.toml"
    path.write_text("")
    monkeypatch.setenv("NIGHTOWL_CONFIG", str(path))
    return path


def origin(name: str) -> tuple[str, str]:
    """(value, origin) of a setting."""
    (found,) = [each for each in origins(Settings()) if each.name == name]
    return found.value, found.origin


def test_defaults_hold_without_a_file() -> None:
    settings = Settings()
    assert settings.slots == 0
    assert settings.queues == ("cpu", "gpu")
    assert settings.limits == Limits()
    assert settings.embeds_redis


def test_the_file_is_read(config: Path) -> None:
    config.write_text('slots = 3\nqueues = ["cpu"]\n[limits]\nmax_pages = 12\n')
    settings = Settings()
    assert (settings.slots, settings.queues, settings.limits.max_pages) == (3, ("cpu",), 12)
    assert settings.limits.max_segments == Limits().max_segments


def test_the_environment_goes_before_the_file_and_arguments_before_both(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.write_text("slots = 3\nreaders = 4\n[limits]\nmax_pages = 12\nmax_segments = 13\n")
    monkeypatch.setenv("NIGHTOWL_SLOTS", "5")
    monkeypatch.setenv("NIGHTOWL_LIMITS__MAX_PAGES", "99")
    settings = Settings()
    assert (settings.slots, settings.readers) == (5, 4)
    assert (settings.limits.max_pages, settings.limits.max_segments) == (99, 13)
    assert Settings(slots=6).slots == 6


@pytest.mark.parametrize("text", ["colour = 1", "[limits]\ncolour = 1", "[colour]\nslots = 1"])
def test_an_unknown_key_in_the_file_is_refused_by_name(config: Path, text: str) -> None:
    config.write_text(text)
    with pytest.raises(ValidationError, match="colour"):
        Settings()


@pytest.mark.parametrize(
    ("variable", "value"),
    [("NIGHTOWL_SLOTS", "many"), ("NIGHTOWL_LIMITS__MAX_PAGES", "0"), ("NIGHTOWL_LIMITS__COLOUR", "1")],
)
def test_a_wrong_value_in_the_environment_is_refused(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValidationError, match=variable.rpartition("_")[2].lower()):
        Settings()


@pytest.mark.parametrize(
    ("text", "queues"),
    [("cpu", ("cpu",)), ("cpu,gpu", ("cpu", "gpu")), (" gpu.fake , cpu,", ("gpu.fake", "cpu"))],
)
def test_queues_are_a_list_with_commas(
    monkeypatch: pytest.MonkeyPatch, config: Path, text: str, queues: tuple[str, ...]
) -> None:
    config.write_text(f'queues = "{text}"')
    assert Settings().queues == queues
    monkeypatch.setenv("NIGHTOWL_QUEUES", text)
    assert Settings().queues == queues


def test_the_config_file_is_the_named_one_else_the_one_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nightowl.toml").write_text("slots = 2")
    assert Settings().slots == 0  # the one that is named is not there
    monkeypatch.delenv("NIGHTOWL_CONFIG")
    assert config_file() == Path("nightowl.toml")
    assert Settings().slots == 2


def test_folders_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/owl")
    settings = Settings(data_dir=Path("here"), cache_dir=Path("~/there"))
    assert settings.data_dir == tmp_path / "here"
    assert settings.cache_dir == Path("/home/owl/there")


@pytest.mark.parametrize("folder", ["plain", "with space", "per%20cent", "quest?ion", "num#ber"])
def test_the_database_is_in_the_data_folder_whatever_its_name(tmp_path: Path, folder: str) -> None:
    settings = Settings(data_dir=tmp_path / folder)
    assert make_url(settings.database).database == str(tmp_path / folder / "nightowl.db")


def test_urls_that_are_set_are_taken_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTOWL_DATABASE_URL", "postgresql+psycopg://owl:s3cret@db/night")
    monkeypatch.setenv("NIGHTOWL_BROKER_URL", "redis://:s3cret@queue/0")
    monkeypatch.setenv("NIGHTOWL_ARTIFACTS_URL", "s3://bucket/night")
    settings = Settings()
    assert settings.database == "postgresql+psycopg://owl:s3cret@db/night"
    assert settings.broker == "redis://:s3cret@queue/0"
    assert settings.artifacts == "s3://bucket/night"
    assert not settings.embeds_redis
    assert "s3cret" not in repr(settings) + str(settings)


def test_the_socket_of_the_embedded_redis_is_in_the_data_folder() -> None:
    settings = Settings(data_dir=Path("/srv/night owl"))
    assert settings.redis_socket == Path("/srv/night owl/run/redis.sock")
    assert settings.broker == "redis+socket:///srv/night%20owl/run/redis.sock"


@pytest.mark.parametrize("letter", ["x", "é"])
def test_where_its_path_is_too_long_it_is_in_a_private_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, letter: str
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/tmp")
    long = Settings(data_dir=Path("/srv") / (letter * 90))
    other = Settings(data_dir=Path("/srv") / (letter * 91))
    assert long.redis_socket.parent.parent == Path("/tmp")
    assert len(bytes(long.redis_socket)) <= SOCKET_PATH_MAX
    assert long.redis_socket == Settings(data_dir=long.data_dir).redis_socket
    assert long.redis_socket != other.redis_socket


def test_the_longest_path_that_fits_is_kept() -> None:
    fits = SOCKET_PATH_MAX - len("/srv//run/redis.sock")
    assert Settings(data_dir=Path("/srv") / ("x" * fits)).redis_socket.is_relative_to("/srv")
    assert not Settings(data_dir=Path("/srv") / ("x" * (fits + 1))).redis_socket.is_relative_to("/srv")


def test_origins_say_environment_file_or_default(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config.write_text("slots = 3\nreaders = 4\n[limits]\nmax_pages = 12\n")
    monkeypatch.setenv("NIGHTOWL_READERS", "5")
    monkeypatch.setenv("nightowl_limits__max_segments", "6")
    assert origin("NIGHTOWL_SLOTS") == ("3", str(config))
    assert origin("NIGHTOWL_READERS") == ("5", "environment NIGHTOWL_READERS")
    assert origin("NIGHTOWL_LIMITS__MAX_PAGES") == ("12", str(config))
    assert origin("NIGHTOWL_LIMITS__MAX_SEGMENTS") == ("6", "environment NIGHTOWL_LIMITS__MAX_SEGMENTS")
    assert origin("NIGHTOWL_THREADS") == ("0", "default")


def test_origins_see_a_group_that_is_given_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTOWL_LIMITS", '{"max_pages": 3}')
    value, came_from = origin("NIGHTOWL_LIMITS__MAX_PAGES")
    assert value == "3"
    assert came_from == "environment NIGHTOWL_LIMITS"
    assert origin("NIGHTOWL_LIMITS__MAX_SEGMENTS")[1] == "default"


def test_origins_name_and_describe_every_setting() -> None:
    found = origins(Settings())
    names = [each.name for each in found]
    assert len(names) == len(set(names)) == len(Settings.model_fields) - 1 + len(Limits.model_fields)
    assert all(each.description for each in found)


def test_origins_mask_secrets(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTOWL_DATABASE_URL", "postgresql+psycopg://owl:s3cret@db/night")
    config.write_text('broker_url = "redis://:s3cret@queue/0"')
    printed = "\n".join(each.model_dump_json() for each in origins(Settings()))
    assert "s3cret" not in printed
    assert origin("NIGHTOWL_DATABASE_URL")[1] == "environment NIGHTOWL_DATABASE_URL"
    assert origin("NIGHTOWL_BROKER_URL")[1] == str(config)


def test_reading_settings_makes_no_folder(tmp_path: Path) -> None:
    Settings()
    assert [path for path in tmp_path.iterdir() if stat.S_ISDIR(path.stat().st_mode)] == []
