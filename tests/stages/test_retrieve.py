"""What `retrieve` refuses before it searches or embeds anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from rrad_ray.config import RetrieveConfig
from rrad_ray.errors import RradError
from rrad_ray.stages import retrieve


def test_a_run_without_a_line_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "corpus.jsonl").write_text('{"_id": "d1", "text": "adds numbers"}\n')
    (tmp_path / "queries.jsonl").write_text('{"_id": "q1", "text": "add"}\n')
    (tmp_path / "empty.run").write_text("\n")
    cfg = RetrieveConfig(data=str(tmp_path), run=f"{tmp_path}/empty.run", output=f"{tmp_path}/candidates")
    with pytest.raises(RradError, match="is an empty run; write each line as"):
        retrieve.run(cfg)
