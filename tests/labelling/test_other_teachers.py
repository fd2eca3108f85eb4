"""Several teachers in one label: weights fitted on dev as for sources, what one lacks tolerated and counted."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from typing import Any

import pytest

from rrad_ray import tables
from rrad_ray.config import JudgeConfig, LabelConfig
from rrad_ray.errors import RradError
from rrad_ray.evaluation import fusion
from rrad_ray.rows import JudgeOutput, Labels
from rrad_ray.stages import label
from tests.fixtures import row_of, table_of


def judged(folder: Path, name: str, scores: dict[str, list[float]], simulated: str = "", **changes: Any) -> str:
    """The output of judge, task `score`, about these queries of four documents, of which the third is relevant."""
    cfg = JudgeConfig(input=str(folder), output=f"{folder}/{name}", task="score")
    out = tables.Output("judge", cfg, JudgeOutput, {})
    rows = []
    for query_id, values in scores.items():
        row = row_of(query_id, ["a", "b", "c", "d"]) | {"split": "dev", "sources": [], "source_scores": []}
        row |= {"qrel_ids": [f"{query_id}-2"], "qrel_grades": [1], "task": "score", "model": name, "shown": []}
        row |= {"responses": [], "judge_scores": values, "reasons": [], "truncated": 0}
        rows.append({**row, "prompt_tokens": 1, "generated_tokens": 0, **changes})
    out.write_all(rows, 7)
    return out.commit(lineage=tables.Lineage(judge=tables.JudgeFacts(name), simulated=simulated))


def noisy(seed: int, lift: float) -> dict[str, list[float]]:
    source = random.Random(seed)
    return {f"q{n}": [source.gauss(0, 1) + lift * (index == 2) for index in range(4)] for n in range(20)}


def test_the_weights_of_teachers_are_fitted_on_dev_and_the_better_one_weighs_more(tmp_path: Path) -> None:
    poor, good = noisy(1, 0.0), noisy(2, 6.0)
    lacking = dict(list(good.items())[::-1][:18])  # in other parts, and of two queries less
    cfg = LabelConfig(
        judged(tmp_path, "poor", poor),
        f"{tmp_path}/labels",
        teachers={"good": judged(tmp_path, "good", lacking, simulated="by hand")},
    )
    rows = {row["query_id"]: row for row in tables.read(label.run(cfg), Labels)}
    manifest = tables.read_manifest(cfg.output)
    assert manifest.lineage.labels is not None
    weights = manifest.lineage.labels.weights
    assert weights["good"] > weights.get("judge", 0.0)
    assert manifest.facts["lacking"] == {"good": 2}
    assert manifest.lineage.simulated == "by hand"
    assert manifest.inputs.keys() == {"input", "teachers.good"}
    fused = fusion.fuse({"judge": poor["q5"], "good": good["q5"]}, {"judge": 0.0, "good": 0.0} | weights)
    assert rows["q5"]["targets"] == pytest.approx(fusion.zscores(fused).tolist(), rel=1e-4)
    assert rows["q5"]["sources"] == [], "another teacher is no source of the first stage"
    given = LabelConfig(cfg.input, f"{tmp_path}/given", teachers=cfg.teachers, weights={"judge": 1.0, "good": 2.0})
    rows = {row["query_id"]: row for row in tables.read(label.run(given), Labels)}
    alone = fusion.zscores(poor["q0"]).tolist()
    assert rows["q0"]["targets"] == pytest.approx(alone, rel=1e-4), "where one is lacking the other decides"


def test_documents_are_joined_by_id_and_other_tasks_and_unusable_answers_are_taken_in(tmp_path: Path) -> None:
    order = {"task": "order", "shown": [[0, 1, 2, 3]], "judge_scores": [], "responses": ["[3] > [1]"]}
    scores = {"q0": [3.0, 2.0, 1.0, 0.0]}
    turned = {"doc_ids": ["q0-3", "q0-2", "q0-1", "new"]}
    cfg = LabelConfig(
        judged(tmp_path, "first", scores),
        f"{tmp_path}/labels",
        teachers={
            "turned": judged(tmp_path, "second", scores, **order, **turned),
            "silent": judged(tmp_path, "third", scores, **order | {"responses": ["no"]}),
        },
        weights={"judge": 0.0, "turned": 1.0, "silent": 1.0},
    )
    [row] = tables.read(label.run(cfg), Labels)
    # It ranks q0-1 (target 2) above q0-3 (1), leaves q0-2 out (0), and was not asked about q0-0: the lowest.
    assert row["targets"] == pytest.approx(fusion.zscores([0.0, 2.0, 0.0, 1.0]).tolist(), rel=1e-4)
    assert tables.read_manifest(cfg.output).facts["lacking"] == {"turned": 0, "silent": 1}


def test_what_is_no_teacher_is_refused(tmp_path: Path) -> None:
    scores = {"q0": [3.0, 2.0, 1.0, 0.0]}
    main = judged(tmp_path, "first", scores, sources=["bm25"], source_scores=[[1.0, 2.0, 3.0, 4.0]])
    candidates = table_of(tmp_path / "candidates", [row_of("q0", ["a"])])
    weights = {"judge": 1.0}
    with pytest.raises(RradError, match="is the output of retrieve; name outputs of judge"):
        label.run(LabelConfig(main, f"{tmp_path}/a", teachers={"x": candidates}, weights=weights))
    other = judged(tmp_path, "other", scores)
    with pytest.raises(RradError, match=r"teachers.bm25: a source has that name"):
        label.run(LabelConfig(main, f"{tmp_path}/b", teachers={"bm25": other}, weights=weights))
    with pytest.raises(ValueError, match="`judge` is the input"):
        LabelConfig(main, f"{tmp_path}/c", teachers={"judge": main})
    with pytest.raises(ValueError, match="fused by targets=teacher and scale=query"):
        LabelConfig(main, f"{tmp_path}/d", teachers={"x": main}, weights=weights, scale="table")


def test_a_teacher_that_was_asked_other_queries_of_the_same_ids_is_refused(tmp_path: Path) -> None:
    scores = {"q0": [3.0, 2.0, 1.0, 0.0]}
    other = judged(tmp_path, "other", scores, query="wholly another")
    cfg = LabelConfig(judged(tmp_path, "first", scores), f"{tmp_path}/labels", teachers={"other": other})
    with pytest.raises(RradError, match=r"teachers\.other: .*: query 'q0' asks 'wholly another' there"):
        label.run(dataclasses.replace(cfg, weights={"judge": 1.0, "other": 1.0}))
