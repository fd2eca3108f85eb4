"""Both papers' recipes from their laptop configs, run as a user runs them, on CoSQA: the quality of each system."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

from benchmarks import harness
from tests.commands import ROOT, RRAD

TRAINED = {"rradistill": ("warm", "encoder", "decoder"), "disranker": ("cpt", "teacher", "warm", "student")}
FEW = ["queries={train: 40, dev: 10, test: 20, unlabelled: 40}", "more_queries={train: 40, dev: 10, test: 0}"]
FEW += ["document_queries=40"]


def bench(quick: bool, scratch: str) -> harness.Result:
    data = harness.collection()
    rows: list[dict[str, Any]] = []
    figures: dict[str, float] = {}
    for recipe, trained in TRAINED.items():
        smaller = [*FEW, *(f"steps.{step}.max_steps=8" for step in trained)] if quick else []
        began = time.monotonic()
        systems = _run(recipe, [f"data={data}", f"out={scratch}/{recipe}", *smaller], Path(scratch, recipe))
        figures[f"{recipe}_minutes"] = (time.monotonic() - began) / 60
        rows += [_row(recipe, system) for system in systems]
        figures |= {f"{recipe}_{one['system']}_ndcg": one["metrics"]["nDCG@10"]["mean"] for one in systems}
    return harness.Result(figures, rows, {"collection": Path(data).name})


def _run(recipe: str, overrides: list[str], out: Path) -> list[dict[str, Any]]:
    """Run one `rrad run` to its end; return the systems of its report."""
    # This measures quality, so the latency budget must not depend on what else runs here.
    command = ["run", f"configs/{recipe}/laptop.yaml", *overrides, "steps.select.max_p99_ms=60000"]
    if subprocess.run([*RRAD, *command], cwd=ROOT).returncode:
        raise SystemExit(f"the recipe {recipe} did not end")
    systems: list[dict[str, Any]] = json.loads((out / "report.json").read_text())["systems"]
    return systems


def _row(recipe: str, system: dict[str, Any]) -> dict[str, Any]:
    metrics = system["metrics"]
    low, high = metrics["nDCG@10"]["low"], metrics["nDCG@10"]["high"]
    return {
        "recipe": recipe,
        "system": system["title"],
        "nDCG@10 [95 % CI]": f"{metrics['nDCG@10']['mean']:.3f} [{low:.3f}, {high:.3f}]",
        "MRR@10": metrics["MRR@10"]["mean"],
        "PNR": metrics["PNR"]["mean"],
        "note": system["note"],
    }


if __name__ == "__main__":
    harness.main("recipes", bench)
