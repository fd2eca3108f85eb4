"""Two labelling runs, or two trainings, that start on one machine at once end as each does alone."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from rrad_ray import tables
from rrad_ray.config import SelectConfig
from rrad_ray.rows import JudgeOutput, Labels
from tests.commands import PATIENCE_S, ROOT, RRAD, SMALL_ENGINE, lines_of_ours
from tests.fixtures import row_of, table_of
from tests.toys import TOPICS

pytestmark = [pytest.mark.ray, pytest.mark.slow]

NAMES = ("first", "second")
# Ray puts the process before each line that a worker of Ray Train prints.
OF_A_WORKER = r"(\x1b\[\d+m\(RayTrainWorker pid=\d+\)\x1b\[0m )?"
JUDGE = ["configs/judge-cpu.yaml", "doc_tokens=32", "gate.enabled=false", *SMALL_ENGINE]
TRAIN = ["configs/train.yaml", "layers=2", "max_length=48", "queries_per_step=4", "docs_per_query=4", "top_docs=2"]
TRAIN += ["epochs=40", "max_steps=12", "eval_steps=6", "eval_queries=4", "resources={CPU: 1}"]


def run(stage: str, arguments: Sequence[str], inputs: Path, outputs: Path, names: Sequence[str] = NAMES) -> None:
    """Start a run for each name at once, from its input to its output, and wait until they have ended well."""
    outputs.mkdir()
    processes, logs = [], [outputs.with_name(f"{outputs.name}-{name}.log") for name in names]
    for name, log in zip(names, logs, strict=True):
        command = [*RRAD, stage, *arguments, f"input={inputs / name}", f"output={outputs / name}"]
        with log.open("wb") as file:
            processes.append(subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT))
    ended = [process.wait(PATIENCE_S) for process in processes]
    for code, log in zip(ended, logs, strict=True):
        assert code == 0, log.read_text()
        *lines, _ = lines_of_ours(log)
        assert all(re.match(rf"{OF_A_WORKER}\[{stage}\] ", line) for line in lines), log.read_text()
    assert sorted(os.listdir(outputs)) == sorted(names)


def files(output: Path) -> dict[str, bytes]:
    """Return what an output holds, by path; the names of Ray Train and of TensorBoard have the time in them."""
    paths = [path for path in output.rglob("*") if path.is_file()]
    paths = [path for path in paths if not {"ray", "tensorboard"} & set(path.relative_to(output).parts)]
    return {str(path.relative_to(output)): path.read_bytes() for path in paths}


@pytest.fixture
def candidates(tmp_path: Path) -> Path:
    """The folder of two inputs of judge, of other queries each."""
    for name in NAMES:
        rows = [row_of(f"{name}{number}", TOPICS[number % 5 :][:4]) for number in range(40)]
        table_of(tmp_path / "candidates" / name, rows)
    return tmp_path / "candidates"


@pytest.mark.parametrize(
    ("options", "times"), [(["engine=echo", "task=order"], 5), ([], 1)], ids=["without a model", "by vLLM"]
)
def test_two_labelling_runs_that_start_at_once_answer_as_each_does_alone(
    candidates: Path, tmp_path: Path, options: list[str], times: int
) -> None:
    for name in NAMES:
        run("judge", [*JUDGE, *options], candidates, tmp_path / f"alone-{name}", [name])
    for turn in range(times):
        run("judge", [*JUDGE, *options], candidates, tmp_path / f"turn{turn}")
        for name in NAMES:
            alone, beside = tmp_path / f"alone-{name}" / name, tmp_path / f"turn{turn}" / name
            assert list(tables.read(str(beside), JudgeOutput)) == list(tables.read(str(alone), JudgeOutput))
            assert files(beside).keys() == files(alone).keys()


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    """The folder of two inputs of train, with other targets each."""
    for sign, name in zip((1.0, -1.0), NAMES, strict=True):
        rows = []
        for number in range(24):
            row = row_of(f"{name}{number}", TOPICS[number % 5 :][:4])
            split = {"split": "dev" if number % 4 == 0 else "train"}
            judged = {"qrel_ids": row["doc_ids"], "qrel_grades": [3, 2, 1, 0]} if split["split"] == "dev" else {}
            label = {"targets": [sign * value for value in (3.0, 2.0, 1.0, 0.0)], "missing": [False] * 4}
            rows.append({**row, **split, **judged, **label, "confidence": [1.0] * 4, "reasons": []})
            rows[-1]["parse_status"] = ["ok"]
        output = str(tmp_path / "labels" / name)
        out = tables.Output("label", SelectConfig(input="", output=output), Labels, {})
        out.write_all(rows, 12)
        out.commit()
    return tmp_path / "labels"


def test_two_trainings_that_start_at_once_end_with_the_students_that_each_makes_alone(
    labels: Path, tmp_path: Path
) -> None:
    for name in NAMES:
        run("train", TRAIN, labels, tmp_path / f"alone-{name}", [name])
    for turn in range(3):
        run("train", TRAIN, labels, tmp_path / f"turn{turn}")
        for name in NAMES:
            alone, beside = files(tmp_path / f"alone-{name}" / name), files(tmp_path / f"turn{turn}" / name)
            assert beside.keys() == alone.keys()
            weights = [path for path in alone if path.endswith(".safetensors")]
            assert weights
            for path in weights:
                assert beside[path] == alone[path], f"turn {turn}: {path}"
