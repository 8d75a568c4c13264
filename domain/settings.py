"""Every setting, its default and where its value came from.

Read from the environment (`NIGHTOWL_*`, nested with `__`), then from `nightowl.toml`. Only the places that wire things
(worker/runtime.py, worker/app.py, nightowl/cli, nightowl/client.py, alembic/env.py) create one.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import os
import re
import tempfile
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote

import platformdirs
from pydantic import BaseModel, Field, SecretStr, field_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from domain.limits import Limits

CONFIG_VARIABLE = "NIGHTOWL_CONFIG"
HOST_NAME = re.compile(r"[a-z0-9_]([a-z0-9_.\-]*[a-z0-9_])?")
UNGUARDED_PROTOCOLS = frozenset({"file", "local", "asynclocal", "git", "http", "https", "generic"})
"""Those by which fsspec would open this machine's files or any URL, past the checks of both."""
SOCKET_PATH_MAX = 100
"""A Unix socket's path may have 107 bytes on Linux; some are left for the server's temporary name."""


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="NIGHTOWL_", env_nested_delimiter="__", extra="forbid", frozen=True)

    data_dir: Path = Field(
        default_factory=lambda: platformdirs.user_data_path("nightowl"),
        description="Folder of everything that Nightowl writes: the embedded database and Redis, artifacts, logs.",
    )
    cache_dir: Path = Field(
        default_factory=lambda: platformdirs.user_cache_path("nightowl"),
        description="Folder of converted model weights; safe to delete while nothing runs.",
    )
    database_url: SecretStr | None = Field(
        default=None,
        description="SQLAlchemy URL, postgresql+psycopg://… or sqlite:///…; by default nightowl.db in the data folder.",
    )
    broker_url: SecretStr | None = Field(
        default=None, description="Redis URL of the Celery queue; by default an embedded Redis in the data folder."
    )
    artifacts_url: str | None = Field(
        default=None, description="Folder or fsspec URL of stored files; by default artifacts/ in the data folder."
    )

    engine: str = Field(
        default="auto",
        description="experts, mplug-owl, fake, auto, or module:factory. auto says in the log what it took.",
    )
    model: str | None = Field(default=None, description="Local directory or hub id of a checkpoint.")
    adapter: str | None = Field(default=None, description="Folder of a LoRA adapter that is merged into the model.")
    device: str = Field(default="auto", description="auto, cpu or cuda:N.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="Number format of the model; auto is float32 on CPU, bfloat16 on GPU."
    )
    slots: int = Field(
        default=0,
        ge=0,
        le=1024,
        description="Requests that the language model advances together; 0: 8 on a CPU, on a GPU what fits, up to 128.",
    )
    context_tokens: int = Field(default=2048, ge=1024, description="Tokens of prompt and answer of one request.")
    threads: int = Field(default=0, ge=0, description="CPU threads of the model; 0 leaves the choice to torch.")

    queues: Annotated[tuple[str, ...], NoDecode] = Field(
        default=("cpu", "gpu"), description="Queues that this worker serves: cpu plans, gpu runs and finishes."
    )
    reuse: bool = Field(
        default=True, description="Give an earlier job's result where content, kind, params and engine are the same."
    )
    revision: str = Field(
        default="", description="Any text; another one says that earlier results do not stand for new ones any more."
    )
    concurrency: int = Field(default=8, ge=1, le=256, description="Slices that one worker has in hand at a time.")
    slice_parts: int = Field(default=8, ge=1, le=1000, description="Parts that one queue message names.")
    parts_in_flight: int = Field(default=3, ge=1, le=64, description="Parts of one slice that are in work at a time.")
    readers: int = Field(default=2, ge=1, le=64, description="Reader child processes of one worker.")
    reader_recycle: int = Field(default=1000, ge=1, description="Reads after which a reader child is replaced.")
    max_messages: int = Field(
        default=256, ge=1, description="Most slices and jobs that stand in the queue at a time; SQL holds the rest."
    )

    lease_seconds: float = Field(default=30.0, ge=1.0, description="A worker silent for so long loses its work.")
    sweep_seconds: float = Field(default=5.0, ge=0.2, description="Time between two sweeps of the ledger.")
    poll_seconds: float = Field(default=0.5, ge=0.05, description="Time between two looks at cancelled jobs.")
    ring_seconds: float = Field(
        default=60.0, ge=1.0, description="A message that nobody took for so long is sent again."
    )
    age_seconds: float = Field(
        default=600.0, ge=1.0, description="A job that waits rises by one in priority each time so long has passed."
    )
    max_attempts: int = Field(default=3, ge=1, le=20, description="Attempts at one part before it fails.")
    part_seconds: float = Field(default=900.0, gt=0, description="Time for one part, reading and generating.")
    job_seconds: float = Field(default=86_400.0, gt=0, description="Time for one job from its start to its end.")
    grace_seconds: float = Field(default=8.0, gt=0, description="Time after SIGTERM to give work back and leave.")

    source_roots: Annotated[tuple[Path, ...] | None, NoDecode] = Field(
        default=None,
        description="Folders, separated by `:` or commas, below which local sources must lie, links resolved; "
        "anywhere if unset, nowhere if empty.",
    )
    source_protocols: Annotated[tuple[str, ...], NoDecode] = Field(
        default=("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az"),
        description="Kinds of fsspec URL that a source may be, besides http and https.",
    )
    source_private_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Networks (CIDR), addresses and host names that sources may come from though they are private, "
        "loopback or link-local.",
    )

    callback_url: str | None = Field(
        default=None,
        description="http(s) URL that is told of each submitted job or batch that ends and names none of its own.",
    )
    callback_secret: SecretStr | None = Field(
        default=None, description="Key of the signature on what callbacks are sent; workers send nothing without it."
    )
    callback_attempts: int = Field(
        default=12, ge=1, le=100, description="Attempts at one callback before it is given up."
    )
    callback_private_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Networks (CIDR), addresses and host names that callbacks may go to though they are private, "
        "loopback or link-local.",
    )

    keep_fetched_hours: float = Field(
        default=168.0,
        ge=0,
        description="How long the copy of a source from the network is kept for a retry after its job failed, was "
        "cancelled or is partial, in hours; that of a job that succeeded goes at once.",
    )

    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="Least level logged.")
    log_format: Literal["text", "json"] = Field(default="text", description="Form of the log lines on stderr.")
    limits: Limits = Field(default_factory=Limits, description="Bounds on sources, see below.")

    @field_validator("queues", "source_protocols", "source_private_hosts", "callback_private_hosts", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(name.strip() for name in value.split(",") if name.strip()) if isinstance(value, str) else value

    @field_validator("source_roots", mode="before")
    @classmethod
    def _split_folders(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return tuple(folder.strip() for folder in re.split(f"[,{os.pathsep}]", value) if folder.strip())

    @field_validator("source_roots")
    @classmethod
    def _absolute_roots(cls, value: tuple[Path, ...] | None) -> tuple[Path, ...] | None:
        return None if value is None else tuple(folder.expanduser().absolute() for folder in value)

    @field_validator("source_protocols")
    @classmethod
    def _guarded(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        names = tuple(name.lower() for name in value)
        if wrong := UNGUARDED_PROTOCOLS.intersection(names):
            raise ValueError(
                f"{', '.join(sorted(wrong))} cannot stand here: http and https are read anyway, by Nightowl itself; "
                "local files are bounded by NIGHTOWL_SOURCE_ROOTS"
            )
        return names

    @field_validator("source_private_hosts", "callback_private_hosts")
    @classmethod
    def _hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_checked_host(entry) for entry in value)

    @field_validator("data_dir", "cache_dir")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, toml_file=config_file())

    @property
    def database(self) -> str:
        """The database's URL; a path in it is percent-encoded, as SQLAlchemy reads it."""
        if self.database_url:
            return self.database_url.get_secret_value()
        return f"sqlite:///{quote(str(self.data_dir / 'nightowl.db'))}"

    @property
    def broker(self) -> str:
        """The broker's URL; for the embedded Redis kombu's socket form, with a percent-encoded path."""
        if self.broker_url:
            return self.broker_url.get_secret_value()
        return f"redis+socket://{quote(str(self.redis_socket))}"

    @property
    def embeds_redis(self) -> bool:
        return self.broker_url is None

    @property
    def run_dir(self) -> Path:
        return self.data_dir / "run"

    @property
    def redis_socket(self) -> Path:
        """In the data folder, or, where that path is too long for a socket, in a private folder under /tmp."""
        path = self.run_dir / "redis.sock"
        if len(os.fsencode(path)) <= SOCKET_PATH_MAX:
            return path
        digest = hashlib.sha256(os.fsencode(self.data_dir)).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"nightowl-{os.getuid()}-{digest}" / "redis.sock"

    @property
    def artifacts(self) -> str:
        return self.artifacts_url or str(self.data_dir / "artifacts")


def _checked_host(entry: str) -> str:
    """A network, an address or a host name. Raises ValueError, for a network whose address has host bits set too."""
    name = entry.lower().rstrip(".")
    if "/" in name or ":" in name or re.fullmatch(r"[\d.]+", name):
        return str(ipaddress.ip_network(name))
    if not HOST_NAME.fullmatch(name):
        raise ValueError(f"{entry!r} is neither a network such as 10.0.0.0/8 nor a host name")
    return name


def config_file() -> Path | None:
    """`$NIGHTOWL_CONFIG`, else nightowl.toml here, else in the user's configuration folder."""
    if named := os.environ.get(CONFIG_VARIABLE):
        return Path(named)
    for path in (Path("nightowl.toml"), platformdirs.user_config_path("nightowl") / "nightowl.toml"):
        if path.is_file():
            return path
    return None


class Origin(BaseModel):
    """One setting as `doctor` prints it; secrets are masked."""

    name: str
    value: str
    origin: str
    description: str


def origins(settings: Settings) -> list[Origin]:
    """Each setting with its value and whether it came from the environment, the file or the default."""
    path = config_file()
    in_file = TomlConfigSettingsSource(Settings, toml_file=path)() if path else {}
    found = []
    for dotted, value, description in _leaves(settings):
        variable = "NIGHTOWL_" + "__".join(dotted).upper()
        origin = _environment(dotted) or (str(path) if _has(in_file, dotted) else "default")
        found.append(Origin(name=variable, value=_shown(value), origin=origin, description=description))
    return found


def _shown(value: object) -> str:
    """Without the credentials that a URL may hold; secrets mask themselves."""
    text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return re.sub(r"//[^/@]*@", "//***@", text)


def _environment(dotted: tuple[str, ...]) -> str | None:
    """The variable that sets it: its own, or a JSON object for the whole group."""
    present = {name.upper(): value for name, value in os.environ.items()}
    variable = "NIGHTOWL_" + "__".join(dotted).upper()
    if variable in present:
        return f"environment {variable}"
    group = f"NIGHTOWL_{dotted[0].upper()}"
    if len(dotted) > 1 and group in present and _has(json.loads(present[group]), dotted[1:]):
        return f"environment {group}"
    return None


def _has(tree: Any, dotted: tuple[str, ...]) -> bool:
    for step in dotted:
        if not isinstance(tree, dict) or step not in tree:
            return False
        tree = tree[step]
    return True


def _leaves(model: BaseModel, prefix: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any, str]]:
    leaves = []
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            leaves += _leaves(value, (*prefix, name))
        else:
            leaves.append(((*prefix, name), value, field.description or ""))
    return leaves
