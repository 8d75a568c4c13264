"""Arguments and options that several commands share, and how `-p key=value` becomes params."""

from __future__ import annotations

import getpass
import json
import sys
from typing import TYPE_CHECKING, Annotated, Any, get_origin

import typer

from domain.errors import ParamsError
from domain.kinds import Kind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from domain.params import Params

KindArgument = Annotated[Kind, typer.Argument(help="What to do.")]
SourcesArgument = Annotated[
    list[str] | None, typer.Argument(help="Files or URLs. None for copywrite with the param brief.", show_default=False)
]
ParamOption = Annotated[
    list[str] | None,
    typer.Option(
        "--param", "-p", metavar="KEY=VALUE", help="A param of the kind; repeat for more.", show_default=False
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object per line, with stable keys.")]
PasswordOption = Annotated[
    str | None,
    typer.Option(
        help="Password of encrypted documents; - asks for it, or reads a line of stdin. Others on this machine can see "
        "what a command line says.",
        show_default=False,
    ),
]
KeyOption = Annotated[str | None, typer.Option(help="Idempotency key; of one source only.", show_default=False)]
PriorityOption = Annotated[int, typer.Option(help="Above 0 goes before other jobs.")]
EngineOption = Annotated[
    str | None, typer.Option(help="experts, mplug-owl, fake or module:factory.", show_default=False)
]
ModelOption = Annotated[str | None, typer.Option(help="Directory or hub id of a checkpoint.", show_default=False)]
WaitOption = Annotated[bool, typer.Option("--wait", help="Wait for the jobs to end, and exit as `run` does.")]
UploadOption = Annotated[
    bool | None, typer.Option("--upload/--no-upload", help="Copy files into the artifact store.", show_default=False)
]
FreshOption = Annotated[bool, typer.Option("--fresh", help="Do the work, though an earlier job did the same.")]
JobsArgument = Annotated[
    list[str] | None,
    typer.Argument(help="Ids of jobs, or their first letters.", metavar="[JOB]...", show_default=False),
]
BatchOption = Annotated[
    str | None, typer.Option("--batch", help="All jobs of a batch, by its name or id.", show_default=False)
]
JobArgument = Annotated[str, typer.Argument(help="Id of a job, or its first letters.", metavar="JOB")]


def read_password(value: str | None) -> str | None:
    """The password of an option; "-" asks for it. Raises ParamsError where nothing comes."""
    if value != "-":
        return value
    typed = getpass.getpass("Password of the documents: ") if sys.stdin.isatty() else sys.stdin.readline()
    if not typed.rstrip("\r\n"):
        raise ParamsError("--password - asks for a password, or reads a line of stdin, and none came")
    return typed.rstrip("\r\n")


def parse_params(kind: Kind, pairs: list[str] | None, password: str | None) -> Params:
    """Raises ParamsError naming the pair that is wrong."""
    from domain.params import check_params

    values: dict[str, Any] = {}
    for pair in pairs or ():
        name, equals, value = pair.partition("=")
        if not equals:
            raise ParamsError(f"-p {pair!r} is not KEY=VALUE")
        if name in values:
            raise ParamsError(f"param {name!r} is given twice; lists are written with commas or as JSON")
        values[name] = _value(kind, name, value)
    if password is not None:
        values["password"] = read_password(password)
    return check_params(kind, values)


def _value(kind: Kind, name: str, value: str) -> Any:
    if value.startswith(("[", "{")):
        try:
            return json.loads(value)
        except json.JSONDecodeError as error:
            raise ParamsError(f"param {name}: not valid JSON: {error}") from error
    from domain.params import PARAMS

    field = PARAMS[kind].model_fields.get(name)
    is_list = field is not None and get_origin(field.annotation) is tuple
    return [item.strip() for item in value.split(",")] if is_list else value


def check_batch(batch: str | None, jobs: Sequence[str] | None, *, optional: bool = False) -> None:
    """Raises ParamsError: a command is about jobs or about one batch."""
    if batch is not None and jobs:
        raise ParamsError("give jobs, or --batch, not both")
    if batch is None and not jobs and not optional:
        raise ParamsError("give the ids of jobs, or --batch with the name or id of a batch")


def check_key(key: str | None, sources: Sequence[str | None]) -> None:
    """Raises ParamsError: one key cannot name several jobs."""
    if key is not None and len(sources) > 1:
        raise ParamsError(f"--key names one job, but {len(sources)} sources are given")
