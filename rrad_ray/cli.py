"""`rrad <stage> <yaml> [key=value ...]` runs one stage; `rrad run <yaml>` runs a pipeline of them."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
import time
from typing import Annotated, Any

import typer

from rrad_ray import config
from rrad_ray.config import load
from rrad_ray.errors import RradError, in_stage
from rrad_ray.tables import status

# What each stage is for, and its config. The module is imported when the stage runs: `rrad --help` is instant.
STAGES: dict[str, tuple[type, str]] = {
    "retrieve": (config.RetrieveConfig, "candidates of every query: BM25 and a bi-encoder, or your own TREC run"),
    "prerank": (config.PrerankConfig, "a cheap ranker orders the candidates; top-k and bottom-k stay"),
    "judge": (config.JudgeConfig, "an LLM labels them: Ray Data x vLLM"),
    "label": (config.LabelConfig, "the LLM's answers to training targets"),
    "export": (
        config.ExportConfig,
        "labels in other trainers' formats: TREC, RankLLM, RankGPT, sentence-transformers",
    ),
    "finetune": (
        config.FinetuneConfig,
        "fine-tune a causal LM: DisRanker's continued pre-training, or a listwise labeller",
    ),
    "train": (config.TrainConfig, "distil a student under Ray Train"),
    "evaluate": (config.EvaluateConfig, "every ranker on the same queries, side by side; report.html"),
    "select": (config.SelectConfig, "the best student inside the latency budget"),
    "serve": (config.ServeConfig, "the winner behind Ray Serve: POST /rerank"),
    "experiment": (config.ExperimentConfig, "what an online test found, from its exposures and clicks; report.html"),
}

# What Ray's and vLLM's workers say on every run and no user can act on; a failure reaches the user as an error.
CHATTER = (
    "Elapsed time for batch|Failed to query Ray Train|ServeController.graceful_shutdown|cloud storage mirror|"
    "Loading safetensors|core_worker.cc|NUMA binding|Max pending requests|Downloading model|Failed to convert column|"
    "Checkpoint successfully|Reporting training result|Setting up process group|worker group|Requesting resources|"
    "Loading weights|logging.cc|world_rank=|LOAD REPORT|MISSING|UNEXPECTED|WARNING|^INFO|"
    r"Shutting down vLLM engine|^\s*$|EngineCore pid=\d+\)\s*$"
)

app = typer.Typer(
    help="Distil an LLM's ranking ability into a re-ranker you can afford to serve.\n\n"
    "Start with `rrad run configs/demo/pipeline.yaml`. A stage takes a YAML file and key=value overrides, as in "
    "`rrad judge configs/judge.yaml input=s3://bucket/candidates output=s3://bucket/judgments workers=8`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Overrides = Annotated[list[str] | None, typer.Argument(help="key=value, e.g. workers=8 gate.enabled=false")]

Yaml = Annotated[str, typer.Argument(help="the config file, local or s3://")]


def run_stage(stage: str, cfg: Any) -> str:
    """Runs a stage on its config; the URI of its output."""
    return importlib.import_module(f"rrad_ray.stages.{stage}").run(cfg)


def run_pipeline(path: str, overrides: list[str]) -> list[str]:
    """Runs a pipeline's steps in order; the URIs of their outputs. All configs are checked before the first runs."""
    _, steps = load.load_pipeline(path, overrides)
    for step in steps:
        if step.stage not in STAGES:
            near = difflib.get_close_matches(step.stage, STAGES, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"choose one of {', '.join(STAGES)}"
            with in_stage("config"):
                raise RradError(f"{path}: steps.{step.name}", f"no stage '{step.stage}'", hint)
    built: list[tuple[load.Step, Any]] = [
        (step, load.build_config(STAGES[step.stage][0], step.values, f"{path}: {step.name}")) for step in steps
    ]
    uris, began = [], time.monotonic()
    for number, (step, cfg) in enumerate(built, 1):
        took = time.monotonic() - began
        print(f"\n--- step {number} of {len(built)}: {step.name} (at {took // 60:.0f}:{took % 60:02.0f})", flush=True)
        uris.append(run_stage(step.stage, cfg))
    return uris


def _add(stage: str, schema: type, purpose: str) -> None:
    @app.command(stage, help=f"{purpose}.")
    def command(yaml: Yaml, overrides: Overrides = None) -> None:
        print(run_stage(stage, load.load_config(schema, yaml, overrides or ())))


@app.command("run", help="run a pipeline: every step of the file in order; finished steps are skipped.")
def pipeline(yaml: Yaml, overrides: Overrides = None) -> None:
    run_pipeline(yaml, overrides or [])


@app.command("status", help="how far a run is, while it runs or after: a stage's output, or a pipeline's folder.")
def show_status(run: Annotated[str, typer.Argument(help="a folder, local or s3://")]) -> None:
    for line in status.status_lines(status.of_run(run)):
        print(line)


@app.command("plan", help="how many pages an online test needs; the config is that of `experiment`.")
def show_plan(yaml: Yaml, overrides: Overrides = None) -> None:
    from rrad_ray.online import analysis  # SciPy and statsmodels take seconds to import

    # A plan reads and writes nothing.
    cfg = load.load_config(config.ExperimentConfig, yaml, ["input=none", "output=none", *(overrides or ())])
    for line in analysis.traffic_plan(cfg):
        print(line)


for _stage, (_schema, _purpose) in STAGES.items():
    _add(_stage, _schema, _purpose)


def main(*command: str) -> None:
    """The `rrad` command, or one of its stages for `jobs/`: a mistake is one line on stderr and exit code 2."""
    # Read by OpenMP when torch loads, here and in the workers of a local cluster. Threads that spin while they wait
    # made training ten times as slow when another process wanted one of two cores, and gained nothing on idle ones.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", CHATTER)  # read by Ray when it is imported
    try:
        app([*command, *sys.argv[1:]])
    except RradError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(2)
