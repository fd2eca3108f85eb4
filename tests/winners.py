"""The output of `select`, as far as the endpoint reads it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write(folder: Path, system: str, checkpoint: str | Path, smoke: Mapping[str, Any]) -> None:
    """Write a winner whole or not at all: an endpoint may look at any time."""
    folder.mkdir(exist_ok=True)
    fields = {"system": system, "student": system, "checkpoint": str(checkpoint), "weights": {}, "smoke": smoke}
    (folder / "new").write_text(json.dumps(fields))
    (folder / "new").rename(folder / "winner.json")
