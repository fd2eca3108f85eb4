"""A replica's process loads a student without the packages that scoring never calls, and may import them later."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from rrad_ray.patches import transformers_imports
from tests import endpoints
from tests.commands import ROOT

REPLICA = """
import json, sys
from rrad_ray.runtime import endpoint
before = sorted(sys.modules)
from rrad_ray.config import ServeConfig
from rrad_ray.serving import loaded_model, winners
model = loaded_model.load_model(winners.find_winner(sys.argv[1]), ServeConfig(sys.argv[1]))
after = sorted(sys.modules)
import sklearn.metrics
print(json.dumps([before, after, model.ranker.score("a", ["b", "c"])]))
"""


def test_a_replica_imports_neither_what_searches_need_nor_what_scoring_never_calls(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = str(tmp_path_factory.mktemp("student") / "tiny")
    wanted = endpoints.student(folder).score("a", ["b", "c"])
    run = subprocess.run(
        [sys.executable, "-c", REPLICA, folder], cwd=ROOT, capture_output=True, text=True, check=True
    )
    before, after, scores = json.loads(run.stdout.splitlines()[-1])
    assert {"torch", "numba", "bm25s", "scipy"}.isdisjoint(before)
    assert {"numba", "bm25s", *transformers_imports.UNCALLED}.isdisjoint(after)
    assert scores == pytest.approx(wanted, abs=1e-2)


def test_what_is_imported_already_stays_and_what_was_left_out_can_be_imported_behind_it() -> None:
    with transformers_imports.lean():
        assert sys.modules["json"] is json
    assert None not in {sys.modules.get(name, ...) for name in transformers_imports.UNCALLED}
