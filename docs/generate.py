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

# What stands in `result.data` beside `marks`, where it is not plain from its name.
RESULTS = {
    "summarize": """
`result.text` is the summary. In `result.data`:

- `method`: `model`, or `extractive` where too little of what the model wrote kept to the document, so that sentences of
  the document itself stand there; `digests` counts the pages by the same words. `checked` is false for a summary in
  another language, which shares no words with its document.
- `citations`: each sentence with the pages (or times) whose digests support it, at most three.
- `key_points`: the first sentence of each page's digest, with its page, in the order of the document.
- `unsupported`: sentences with numbers or names that stand on no page, and which. A name is a word with a capital in
  the middle of a sentence; in another language only numbers are looked at. `dropped`: sentences of the model that were
  left out.

A page is digested once per document, engine and focus: a second summary of the same document, in another style or
length, costs only its own last steps, and `data.cached` of its parts is true. Copywriting shares the digests.
""",
    "copywrite": """
`result.text` holds the variants, with a line `---` between them. In `result.data`:

- `variants`: the texts. The first is the same on every run; one that is too like an earlier one is written anew, up to
  twice. `difference` says how far the two most alike are from each other, 0 to 1.
- `fitted`: of each variant its `words`, `characters` and `hashtags`, and whether it was `cut` to fit its channel.
- `unsupported`: of each variant the sentences whose numbers, names or most words stand in neither source nor brief; in
  another language only numbers are looked at. `facts`: what the model was told of the source.
""",
    "caption": """
`result.text` is the synopsis; `captions.srt` and `captions.vtt` are files of the job. In `result.data`:

- `captions`: `start` and `end` in seconds, `text`, the numbers of the `parts` it is of, and `text_seen` where text
  stands on screen and the engine reads it. Neighbouring segments that say the same are one caption.
- `method`: `model`, or `extractive` where the captions themselves stand for a synopsis.
""",
}

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
    return head + "".join(rows) + RESULTS.get(str(model.kind), "")


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
