"""Is a second round of labels worth more than a longer first one? The same number of LLM calls and of steps in each.

One round labels the first stage's candidates. Of two rounds, the second labels the first student's own candidates, of
queries drawn at random or of those where it disagrees most with the first stage; the student then goes on with all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any, Literal

from benchmarks import command, harness, students
from benchmarks.students import Scores
from rrad_ray.config import PickConfig, PrerankConfig, RetrieveConfig
from rrad_ray.stages import prerank, retrieve

ARMS = ("one round", "two rounds, random", "two rounds, disagreement")
PAIRS = {"second_round": (ARMS[1], ARMS[0]), "disagreement": (ARMS[2], ARMS[1])}
BY: dict[str, Literal["random", "disagreement"]] = {ARMS[1]: "random", ARMS[2]: "disagreement"}


@dataclasses.dataclass(frozen=True)
class Size:
    train: int  # queries that may be labelled, at most
    test: int
    share: float  # of them, labelled in a round
    free: int  # queries made of documents' sentences, for the start
    warm_steps: int
    steps: int  # of the training after a round
    seeds: int


def bench(quick: bool, scratch: str, collection: Sequence[str] = (), seeds: int = 3) -> harness.Result:
    chosen = students.collections(collection, ("klue-nli-ko",))
    size = Size(400, 250, 0.2, 1500, 200, 80, seeds)
    if quick:
        chosen, size = dict(list(chosen.items())[:1]), Size(100, 40, 0.2, 60, 10, 6, 1)
    rows: list[dict[str, Any]] = []
    gained: dict[str, list[float]] = {pair: [] for pair in PAIRS}
    with students.processes() as pool:
        for name, data in chosen.items():
            here = measure(data, f"{scratch}/{name}", size, pool, students.model_for(name))
            lines = [
                {
                    "collection": name,
                    "arms": f"{after}, over {before}",
                    **students.compared(here[after], here[before]),
                }
                for after, before in PAIRS.values()
            ]
            print(command.table(lines), flush=True)
            rows += lines
            for pair, (after, before) in PAIRS.items():
                gained[pair] += students.gains(here[after], here[before])
    settings = dataclasses.asdict(size) | {"teacher": dataclasses.asdict(students.TEACHER)}
    return harness.Result(students.gain_figures(gained), rows, settings)


def measure(data: str, folder: str, size: Size, pool: ProcessPoolExecutor, model: str) -> dict[str, list[Scores]]:
    """Return nDCG@10 by test query, for each arm and seed."""
    queries = {"train": size.train, "dev": 0, "test": size.test, "unlabelled": 0}
    depths: Any = {"bm25_depth": 20, "dense_depth": 20}
    cfg = RetrieveConfig(data=data, output=f"{folder}/candidates", model=model, queries=queries, **depths)
    candidates = retrieve.run(cfg)
    source, _ = students.start(pool, cfg, size.free, size.warm_steps)
    jobs: dict[str, list[Future[Scores]]] = {arm: [] for arm in ARMS}
    for seed in range(size.seeds):
        rounds = _Rounds(candidates, f"{folder}/{seed}", size, seed, pool)
        for arm, job in rounds.train(source).items():
            jobs[arm].append(job)
    return {arm: [job.result() for job in futures] for arm, futures in jobs.items()}


@dataclasses.dataclass
class _Rounds:
    """The labels and trainings of one seed."""

    candidates: str
    folder: str
    size: Size
    seed: int
    pool: ProcessPoolExecutor

    def train(self, source: str) -> dict[str, Future[Scores]]:
        """Start the training of each arm."""
        whole = self._labels("whole", PickConfig(share=2 * self.size.share), "")
        single = self._student("single", source, whole, [], 2 * self.size.steps)
        first = self._labels("first", PickConfig(share=self.size.share), "")
        after_first = f"{self.folder}/after-first"
        self._student("after-first", source, first, [], self.size.steps).result()
        rest = self.size.share / (1 - self.size.share)  # of those without a label: as many as in the first round
        jobs = {ARMS[0]: single}
        for arm, by in BY.items():
            second = self._labels(by, PickConfig(by=by, share=rest, against="dense", without=[first]), after_first)
            jobs[arm] = self._student(f"by-{by}", f"{after_first}/model", first, [second], self.size.steps)
        return jobs

    def _labels(self, name: str, pick: PickConfig, student: str) -> str:
        """Return labels of picked queries: of a student's own candidates or, without one, of the bi-encoder's."""
        short = PrerankConfig(
            input=self.candidates,
            output=f"{self.folder}/{name}-short",
            source="" if student else "dense",
            student=f"{student}/model" if student else "",
            splits=("train",),
            top_k=6,
            bottom_k=4,
            pick=pick,
            seed=self.seed,
        )
        return students.simulated_labels(prerank.run(short), f"{self.folder}/{name}", self.seed)

    def _student(self, name: str, source: str, labels: str, more: list[str], steps: int) -> Future[Scores]:
        options: dict[str, Any] = {"losses": {"margin_mse": 1.0, "contrastive": 1.0}, "normalize": "query"}
        options |= {
            "input": labels,
            "more": more,
            "seed": self.seed,
            "max_steps": steps,
            "lr": 3e-5,
            "word_dropout": 0.12,
        }
        return students.train(self.pool, self.candidates, f"{self.folder}/{name}", source, **options)


if __name__ == "__main__":
    harness.main("rounds", bench, students.ONLY, students.SEEDS)
