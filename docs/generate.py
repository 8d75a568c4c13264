"""Writes the pages that are made from the code: `python docs/generate.py`. A test compares them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, SecretStr

from domain.params import PARAMS
from domain.settings import Settings

HERE = Path(__file__).parent

SETTINGS_HEAD = """# Settings

Made from the code by `python docs/generate.py`.

Each setting is an environment variable, or a key of `nightowl.toml` without its prefix in lower case (nested groups are
tables: `[limits]`). The environment goes before the file. The file is the one that `NIGHTOWL_CONFIG` names, else
`nightowl.toml` in the current folder, else in the user's configuration folder. `nightowl doctor` prints every setting
with where its value came from. An unknown key in the file is refused.

| variable | default | meaning |
|---|---|---|
"""

PARAMS_HEAD = """# Kinds and their params

Made from the code by `python docs/generate.py`.

On the command line a param is `-p key=value`; lists are written with commas or as JSON. In Python it is an argument of
the class. In SQL and over Celery it is a key of the JSON object `params`. An unknown key is refused by name.
"""

# Defaults that depend on the machine are described, not printed.
DEFAULTS = {"data_dir": "the platform's user data folder", "cache_dir": "the platform's user cache folder"}


def settings_page() -> str:
    return SETTINGS_HEAD + "".join(_setting_rows(Settings, "NIGHTOWL_"))


def _setting_rows(model: type[BaseModel], prefix: str) -> list[str]:
    rows: list[str] = []
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            rows += _setting_rows(field.annotation, f"{prefix}{name.upper()}__")
        else:
            default = DEFAULTS.get(name) or _default(field)
            rows.append(f"| `{prefix}{name.upper()}` | {default} | {_cell(field.description)} |\n")
    return rows


def _default(field: Any) -> str:
    value = field.get_default(call_default_factory=True)
    if value in (None, ()) or isinstance(value, SecretStr):
        return "unset"
    return f"`{','.join(value) if isinstance(value, tuple) else value}`"


def params_page() -> str:
    return PARAMS_HEAD + "".join(_kind_section(model) for model in PARAMS.values())


def _kind_section(model: type[Any]) -> str:
    schemas = model.model_json_schema()["properties"]
    rows = []
    for name, field in model.model_fields.items():
        cells = (f"`{name}`", _values(schemas[name]), _default(field), _cell(field.description))
        rows.append(f"| {' | '.join(cells)} |\n")
    head = f"\n## {model.kind}\n\n| param | values | default | meaning |\n|---|---|---|---|\n"
    return head + "".join(rows)


def _values(schema: dict[str, Any]) -> str:
    """What a param may be, from its JSON schema."""
    options = [option for option in schema.get("anyOf", [schema]) if option.get("type") != "null"]
    one = options[0]
    if "enum" in one:
        return ", ".join(f"`{value}`" for value in one["enum"])
    if one.get("type") == "array":
        return "list of " + ("turns `{role, text}`" if "$ref" in one["items"] else "words")
    if "minimum" in one and "maximum" in one:
        return f"{one['minimum']} to {one['maximum']}"
    return {"string": "text"}.get(one["type"], one["type"])


def _cell(text: str | None) -> str:
    return (text or "").replace("|", "\\|")


PAGES = {"settings.md": settings_page, "kinds.md": params_page}


def main() -> None:
    for name, make in PAGES.items():
        (HERE / name).write_text(make())


if __name__ == "__main__":
    main()
