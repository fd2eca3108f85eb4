"""Does each idea of the two papers help? The same student and steps with and without it, on real collections."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any, NamedTuple

import click

from benchmarks import command, harness, students
from benchmarks.students import CORES, Scores
from rrad_ray import tables
from rrad_ray.config import (
    ExportConfig,
    FinetuneConfig,
    GateConfig,
    GenerationConfig,
    JudgeConfig,
    LabelConfig,
    PrerankConfig,
    RetrieveConfig,
    SimulatedConfig,
    TermsConfig,
    TrainConfig,
    load,
)
from rrad_ray.rankers.likelihood import LikelihoodRanker
from rrad_ray.rows import Candidates, JudgeOutput, Labels
from rrad_ray.stages import export, finetune, judge, label, prerank, retrieve
from rrad_ray.tables import checkpoints

NOISE, MISSING = 0.5, 0.3  # of the simulated teacher: standard deviation in grades; share of omitted documents
DEV_QUERIES = 60  # with qrels, for the weights that fuse the teacher with the first stage
CPT_QUERIES = 100  # test queries for the likelihood ranking

CPT = "likelihood after CPT"  # an arm that is no student


class Arm(NamedTuple):
    """A student: the labels that it learns from, and the options in which its config differs."""

    labels: str
    options: Mapping[str, Any]


DECODER: dict[str, Any] = {"kind": "decoder", "lr": 3e-4}
ARMS = {
    "order": Arm("negative", {}),
    "appended": Arm("append", {}),
    "term control": Arm("negative", {"terms": TermsConfig(weight=0.5)}),
    "term control, tokens": Arm("negative", {"terms": TermsConfig(weight=0.5, match="token")}),
    "pointwise": Arm("pointwise", {"losses": {"bce": 1.0}}),
    "hybrid": Arm("likelihood", {"losses": {"point_mse": 1.0, "margin_mse": 1.0}}),
    "point": Arm("likelihood", {"losses": {"point_mse": 1.0}}),
    "margin": Arm("likelihood", {"losses": {"margin_mse": 1.0}}),
    "decoder": Arm("negative", DECODER),
    "joint": Arm("negative", {**DECODER, "generation": GenerationConfig(weight=1.0)}),
}
IDEAS = {  # the arm with the idea, and the arm without it
    "missing_negative": ("order", "appended"),
    "term_control": ("term control", "order"),
    "token_selection": ("term control", "term control, tokens"),
    "hybrid_over_point": ("hybrid", "point"),
    "hybrid_over_margin": ("hybrid", "margin"),
    "joint_generation": ("joint", "decoder"),
    "cpt": (CPT, "likelihood before"),
    "listwise_labels": ("order", "pointwise"),
}
IDEA = click.Option(["--idea"], type=click.Choice(list(IDEAS)), multiple=True, help="this one alone; may be repeated")


@dataclasses.dataclass(frozen=True)
class Size:
    collections: Mapping[str, str]  # folder or URI by name
    seeds: int
    train: int  # queries, at most
    test: int
    warm_steps: int
    steps: int


def bench(quick: bool, scratch: str, collection: Sequence[str] = (), idea: Sequence[str] = ()) -> harness.Result:
    ideas = {name: pair for name, pair in IDEAS.items() if name in idea or not idea}
    named = tuple(name for name in students.MULTILINGUAL if name in collection)  # the bundled decoder reads none
    chosen = students.collections(collection, students.BESIDE + named)
    if quick:
        size = Size(dict(list(chosen.items())[:1]), seeds=1, train=60, test=40, warm_steps=10, steps=5)
    else:
        size = Size(chosen, seeds=3, train=200, test=200, warm_steps=80, steps=40)
    gained: dict[str, list[float]] = {name: [] for name in ideas}
    rows: list[dict[str, Any]] = []
    with students.processes() as pool:
        for name, data in size.collections.items():
            arms = [arm for pair in ideas.values() for arm in pair]
            measured = _Collection(data, f"{scratch}/{name}", size, pool, students.model_for(name)).measure(arms)
            lines = [_row(each, name, *(measured[arm] for arm in pair)) for each, pair in ideas.items()]
            print(command.table(lines), flush=True)
            rows += lines
            for each, (with_it, without) in ideas.items():
                gained[each] += students.gains(measured[with_it], measured[without])
    settings = dataclasses.asdict(size) | {"noise": NOISE, "missing": MISSING}
    return harness.Result(students.gain_figures(gained), rows, settings)


class _Collection:
    """One collection: the labels that the arms need, and then every arm with every seed."""

    def __init__(self, data: str, folder: str, size: Size, pool: ProcessPoolExecutor, model: str) -> None:
        self.folder, self.size, self.pool = folder, size, pool
        self.sources = {"encoder": (model, {}), "decoder": (checkpoints.BUNDLED[1], {**DECODER, "layers": 4})}
        wanted = {"train": size.train, "dev": DEV_QUERIES, "test": size.test, "unlabelled": 0}
        self.all = retrieve.run(RetrieveConfig(data=data, output=f"{folder}/candidates", queries=wanted, model=model))
        self.template = "summary" if data.startswith("pydoc:") else "search"
        short = PrerankConfig(
            input=self._learnt(), output=f"{folder}/short", source="dense", top_k=8, bottom_k=4, keep_whole=()
        )
        self.short = prerank.run(short)

    def _learnt(self) -> str:
        """Return the candidates of all queries but the test ones, which the teacher need not judge."""
        out = tables.Output("retrieve", RetrieveConfig(data="", output=f"{self.folder}/learnt"), Candidates, {})
        out.write_all((row for row in tables.read(self.all, Candidates) if row["split"] != "test"), 128)
        return out.commit()

    def measure(self, names: Sequence[str]) -> dict[str, list[Scores]]:
        """Return, for each of these arms and each seed, nDCG@10 by test query."""
        arms = {name: arm for name, arm in ARMS.items() if name in names}
        free = label.run(LabelConfig(input=self.all, output=f"{self.folder}/free"))
        started = {
            kind: self._train(f"warm-{kind}", free, {**options, "max_steps": self.size.warm_steps}, source, 0)
            for kind, (source, options) in self.sources.items()
            if kind in map(_kind, arms.values())
        }
        likelihood = self._likelihood() if "likelihood" in {arm.labels for arm in arms.values()} else ""
        for job in started.values():
            job.result()
        jobs: dict[tuple[str, int], Future[Scores]] = {}
        for seed in range(self.size.seeds):
            labels = {"likelihood": likelihood, **self._simulated(seed)}
            for name, arm in arms.items():
                options = {**arm.options, "max_steps": self.size.steps}
                start = f"{self.folder}/warm-{_kind(arm)}"
                jobs[name, seed] = self._train(f"{name}-{seed}", labels[arm.labels], options, start, seed)
        if CPT in names:
            jobs |= self._pretrained()
        scores: dict[str, list[Scores]] = {}
        for (name, _), job in jobs.items():
            scores.setdefault(name, []).append(job.result())
        return scores

    def _train(self, name: str, labels: str, options: Mapping[str, Any], source: str, seed: int) -> Future[Scores]:
        """Train a student in a process of the pool and save it under its name; return nDCG@10 by test query."""
        settled = {"losses": {"ranknet": 1.0}, "epochs": 1000.0, "eval_steps": 10**9, **options}
        cfg = TrainConfig(input=labels, output=f"{self.folder}/{name}", seed=seed, **settled)
        return self.pool.submit(students.trained, cfg, source, self.all)

    def _likelihood(self) -> str:
        """Return labels of the real teacher: SmolLM2's likelihood, fused with the first stage by `label`."""
        overrides = [f"input={self.short}", f"output={self.folder}/judged", f"template={self.template}"]
        overrides += [
            "doc_tokens=64",
            f"num_workers={CORES}",
            "gate.enabled=false",
            "engine_env.VLLM_CPU_KVCACHE_SPACE=1",
        ]
        judged = judge.run(load.load_config(JudgeConfig, "configs/judge-cpu.yaml", overrides))
        return label.run(LabelConfig(input=judged, output=f"{self.folder}/likelihood"))

    def _simulated(self, seed: int) -> dict[str, str]:
        """Return labels of a simulated teacher with noise: listwise orders, and its yes or no for each document."""
        judged = {}
        for task in ("order", "score"):
            cfg = JudgeConfig(
                input=self.short,
                output=f"{self.folder}/{task}-{seed}",
                task=task,
                engine="simulated",
                simulated=SimulatedConfig(noise=NOISE, missing=MISSING),
                gate=GateConfig(enabled=False),
                resources={"CPU": 1},
                seed=seed,
            )
            judged[task] = judge.run(cfg)
        labels = {"pointwise": self._pointwise(judged["score"], seed)}
        for way in ("negative", "append"):
            labels[way] = label.run(
                LabelConfig(input=judged["order"], output=f"{self.folder}/{way}-{seed}", missing=way)
            )
        return labels

    def _pointwise(self, judged: str, seed: int) -> str:
        cfg = LabelConfig(input=judged, output=f"{self.folder}/pointwise-{seed}")
        out = tables.Output("label", cfg, Labels, {"input": judged})
        rows = [
            {
                **row,
                "targets": [float(score > 0.5) for score in row["judge_scores"]],
                "missing": [False] * len(row["doc_ids"]),
                "confidence": [1.0] * len(row["doc_ids"]),
                "reasons": [],
                "parse_status": [],
            }
            for row in tables.read(judged, JudgeOutput)
        ]
        out.write_all(rows, 128)
        return out.commit(rows=len(rows), lineage=tables.lineage_of(judged))

    def _pretrained(self) -> dict[tuple[str, int], Future[Scores]]:
        """Measure likelihood rankings of test candidates by SmolLM2 before and after continued pre-training.

        Documents that are relevant for train queries by the qrels stand in for clicked ones.
        """
        short = PrerankConfig(
            input=self.all, output=f"{self.folder}/top", source="dense", top_k=10, bottom_k=0, keep_whole=()
        )
        top = prerank.run(short)
        candidates = (top, self.template)
        jobs = {("likelihood before", 0): self.pool.submit(_likelihoods, checkpoints.BUNDLED[1], *candidates)}
        graded = LabelConfig(input=self.all, output=f"{self.folder}/graded", targets="grades", unjudged="negative")
        clicks = ExportConfig(input=label.run(graded), output=f"{self.folder}/clicks", format="clicks")
        log = export.run(dataclasses.replace(clicks, splits=("train",)))
        for seed in range(self.size.seeds):
            settled: dict[str, Any] = {"max_length": 512, "sequences_per_step": 2, "lr": 5e-5}
            tuned = finetune.run(FinetuneConfig(input=log, output=f"{self.folder}/cpt-{seed}", seed=seed, **settled))
            jobs[CPT, seed] = self.pool.submit(_likelihoods, tuned, *candidates)
        return jobs


# ---- in a process of the pool -------------------------------------------------------------------------------


def _likelihoods(model: str, test: str, template: str) -> Scores:
    ranker = LikelihoodRanker(checkpoints.resolve(model), template=template, doc_tokens=64)
    rows = tables.read_split(test, Candidates, "test")
    return students.measured(ranker.score, itertools.islice(rows, CPT_QUERIES))


# ---- what it says -------------------------------------------------------------------------------------------


def _kind(arm: Arm) -> str:
    return str(arm.options.get("kind", "encoder"))


def _row(idea: str, where: str, with_it: Sequence[Scores], without: Sequence[Scores]) -> dict[str, Any]:
    return {"idea": idea, "collection": where, **students.compared(with_it, without)}


if __name__ == "__main__":
    harness.main("ablations", bench, students.ONLY, IDEA)
