"""PyMuPDF, wrapped once: it has no usable types, and it must not load what nothing here uses."""

from __future__ import annotations

import importlib
import sys
from typing import Any, cast

# Its page layout analysis, imported whenever it is installed: 100 MiB and half a second of onnxruntime in each child.
for _unused in ("pymupdf.layout", "pymupdf4llm"):
    sys.modules.setdefault(_unused, cast("Any", None))

pymupdf: Any = importlib.import_module("pymupdf")
