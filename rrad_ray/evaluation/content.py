"""The content of `report.json`, which `summary` and `report_html` show."""

from __future__ import annotations

import dataclasses
import datetime
import os
import platform
from typing import Any

import numpy as np

from rrad_ray import tables, versions
from rrad_ray.evaluation.bench import Evaluation
from rrad_ray.evaluation.comparison import changed_examples, length_segments, significance_tests
from rrad_ray.evaluation.summary import METRIC, ReportContent
from rrad_ray.tables import Lineage


def report_content(evaluation: Evaluation) -> ReportContent:
    """Return the content of `report.json`: all systems and comparisons, training curves, teacher, machine.

    None stands for what could not be computed, such as a test on one query.
    """
    cfg, rows, systems = evaluation.cfg, evaluation.test, evaluation.systems
    content = {
        "name": cfg.title or "evaluation",
        "data": evaluation.first.data,
        "split": cfg.split,
        "queries": len(rows),
        "qrels": dataclasses.asdict(evaluation.lineage.qrels) if evaluation.lineage.qrels else None,
        "candidates_per_query": float(np.mean([len(row["doc_ids"]) for row in rows])),
        "systems": [system.entry for system in systems],
        "tests": significance_tests(systems),
        "segments": length_segments(rows, systems),
        "per_query": {system.name: system.quality[METRIC] for system in systems},
        "query_texts": [row["query"] for row in rows],
        "training": [{"student": name, **tables.read_history(uri)} for name, uri in cfg.students.items()],
        "winner": None,
        "teacher": _teacher_facts(evaluation.labels),
        "examples": changed_examples(rows, systems),
        "machine": {"cpu": _cpu(), "cores": os.cpu_count()},
        "versions": {"python": platform.python_version(), **versions.installed()},
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    return tables.finite(content)


def _teacher_facts(labels: Lineage) -> dict[str, Any]:
    """Return what the labels' lineage says of the teacher, and its check on dev; nothing but keys without labels."""
    facts = labels.labels
    if facts is None:
        return {"model": None, "weights": None, "label_quality": None, "simulated": None, "gate": []}
    gate = [{"system": name, "ndcg": value} for name, value in facts.dev.get("ndcg_10", {}).items()]
    shown = {"model": facts.model, "weights": facts.weights, "label_quality": facts.label_quality}
    return {**shown, "simulated": labels.simulated, "gate": gate}


def _cpu() -> str:
    """Return the processor's name."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
