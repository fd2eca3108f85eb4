"""Files of hits: what is written is read back, whatever users call their runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rrad_ray.retrieval.hit_files import read_hits, write_hits
from rrad_ray.retrieval.hits import Hits


@pytest.mark.parametrize("names", [["query", "document"], ["bm25", "score of bm25"]])
def test_a_run_may_have_the_name_of_another_column(names: list[str], tmp_path: Path) -> None:
    scores = {name: np.array([0.5, 0.25 * number]) for number, name in enumerate(names, 1)}
    write_hits(f"{tmp_path}/hits.parquet", Hits(np.array([3, 4]), np.array([7, 9]), scores))
    hits = read_hits(f"{tmp_path}/hits.parquet", names)
    assert (hits.queries.tolist(), hits.documents.tolist()) == ([3, 4], [7, 9])
    assert {name: column.tolist() for name, column in hits.scores.items()} == {
        name: column.tolist() for name, column in scores.items()
    }
