"""The public API: `from rrad_ray import Ranker, run_stage`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import rrad_ray
from rrad_ray.config import ExportConfig, LabelConfig
from tests.commands import PATIENCE_S, ROOT
from tests.fixtures import row_of, table_of


def test_importing_the_package_needs_neither_torch_nor_ray_and_names_its_api() -> None:
    program = "import sys, rrad_ray; print(rrad_ray.__all__, sorted({'torch', 'ray', 'pyarrow'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=True
    )
    assert done.stdout.strip() == "['Ranker', 'run_stage'] []"
    assert (ROOT / "rrad_ray" / "py.typed").is_file()


def test_a_ranker_loads_a_saved_student_and_scores_documents(student: str) -> None:
    ranker = rrad_ray.Ranker.load(student)
    scores = ranker.score("add up an array", ["numpy.sum(a, axis)", "os.remove(path)"])
    assert len(scores) == 2
    assert all(isinstance(score, float) for score in scores)


def test_a_stage_runs_from_a_config_and_returns_its_output(tmp_path: Path) -> None:
    row = row_of("q1", ["adds numbers", "opens files"]) | {"split": "train", "source_scores": [[2.0, 1.0]]}
    candidates = table_of(tmp_path / "candidates", [row])
    labels = rrad_ray.run_stage("label", LabelConfig(candidates, str(tmp_path / "labels"), weights={"bm25": 1.0}))
    assert labels == str(tmp_path / "labels")
    assert rrad_ray.run_stage("export", ExportConfig(labels, str(tmp_path / "exported"))) == str(
        tmp_path / "exported"
    )


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'rank'"):
        rrad_ray.rank  # noqa: B018
