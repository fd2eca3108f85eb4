"""The command `rrad`: `rrad STAGE CONFIG [key=value ...]` runs one stage, `rrad run CONFIG` a pipeline of them."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import json
import os
import sys
import time
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from rrad_ray import tables
from rrad_ray.config import ExperimentConfig, JudgeConfig, TrafficConfig, load
from rrad_ray.config.catalog import STAGES
from rrad_ray.config.reference import help_text, keys_of
from rrad_ray.errors import NothingToDo, RradError, in_stage
from rrad_ray.progress import QUIET_LIBRARIES, printable, spell_out
from rrad_ray.tables import status

# Lines that Ray's and vLLM's workers print on every run and no user can act on; failures reach the user as errors.
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
    "`rrad judge configs/judge.yaml input=s3://bucket/candidates output=s3://bucket/judged num_workers=8`. "
    "`rrad STAGE --help` lists its keys.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
Overrides = Annotated[list[str] | None, typer.Argument(help="key=value, e.g. num_workers=8 gate.enabled=false")]
Yaml = Annotated[str, typer.Argument(help="the config file, local or s3://, or a config of ours by its name")]
Show = Annotated[bool, typer.Option("--show", help="print the resolved config as YAML, and run nothing")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="print which steps would run, and why; run nothing")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON on stdout; other lines go to stderr")]
Built = list[tuple[load.Step, Any]]  # the steps of a pipeline with their checked configs


def stage_of(name: str) -> Any:
    """Return a stage's `run`. Its module is imported here, not before: `rrad --help` is instant."""
    return importlib.import_module(f"rrad_ray.stages.{name}").run


def run_stage(stage: str, cfg: Any) -> str:
    """Run a stage on its config and return the URI of its output."""
    return str(stage_of(stage)(cfg))


@in_stage("config")
def build_steps(path: str, overrides: list[str]) -> Built:
    """Return a pipeline's steps with their configs, all of which are checked. Raises `RradError` for the first bad
    one."""
    _, steps = load.load_pipeline(path, overrides)
    for step in steps:
        if step.stage not in STAGES:
            near = difflib.get_close_matches(step.stage, STAGES, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"choose one of {', '.join(STAGES)}"
            raise RradError(f"{path}: steps.{step.name}", f"no stage '{step.stage}'", hint)
    built = [
        (step, _checked(load.build_config(STAGES[step.stage][0], step.values, f"{path}: {step.name}")))
        for step in steps
    ]
    _check_outputs(path, built)
    return built


def _check_outputs(path: str, built: Built) -> None:
    """Raise `RradError` if a step writes into the folder of another one, reads what a later one has yet to make, or
    serves for ever before others: told now, not when the steps before it have run."""
    later = dict(outputs := {step.name: cfg.output for step, cfg in built if getattr(cfg, "output", "")})
    for step, cfg in built:
        later.pop(step.name, None)
        where, own = f"{path}: {step.name}", "give every step an output of its own"
        if getattr(cfg, "blocking", False) and step is not built[-1][0]:
            raise RradError(where, "serves until it is ended, and steps follow it", "put it last")
        output, publish = outputs.get(step.name, "/"), getattr(cfg, "publish", "") or "/"
        for name, other in outputs.items():
            twice = name in later and tables.lies_within(other, output)  # which is told of the later one
            if name != step.name and not twice and tables.lies_within(output, other):
                raise RradError(where, f"writes {output}, as {name} does", own)
            if name != step.name and tables.lies_within(publish, other):
                raise RradError(where, f"publishes into {other} of {name}", own)
        for key, uri in tables.read_places(cfg):
            name = next((name for name, other in later.items() if tables.lies_within(uri, other)), "")
            if name and not tables.exists(uri):
                raise RradError(where, f"reads {key}={uri}, which the later step {name} makes", "mend the order")


@in_stage("config")
def _checked(cfg: Any) -> Any:
    """Return a config. Raises `RradError` if its output does not stand apart from what it reads, or answers of the
    form that its template asks for would be misread."""
    tables.check_apart(cfg)
    if isinstance(cfg, JudgeConfig):
        from rrad_ray.labelling.answer_patterns import check_template  # the parser, which `rrad --help` does not need

        check_template(cfg)
    return cfg


def run_pipeline(path: str, overrides: list[str]) -> dict[str, str]:
    """Run a pipeline's steps in order and return the URI of each one's output, by the step's name; up to one that
    leaves nothing to do for those after it."""
    steps, began, uris = build_steps(path, overrides), time.monotonic(), dict[str, str]()
    for number, (step, cfg) in enumerate(steps, 1):
        took = time.monotonic() - began
        print(f"\n--- step {number} of {len(steps)}: {step.name} (at {took // 60:.0f}:{took % 60:02.0f})", flush=True)
        try:
            uris[step.name] = run_stage(step.stage, cfg)
        except NothingToDo as end:
            print(f"\n--- {step.name} ends the run: {end}", flush=True)
            break
    return uris


def plan_pipeline(path: str, overrides: list[str]) -> list[dict[str, str]]:
    """Return, for each step of a pipeline, what a run would do with it; nothing is run or written.

    `state`: `new`, `resume`, `finished` or `refused` (`tables.Claim`), `waits` for a step whose input an earlier
    step has yet to make, or `blocked` behind a step that is refused. `reason` says why.
    """
    plan: list[dict[str, str]] = []
    unfinished: dict[str, str] = {}  # outputs that earlier steps have yet to make, and by which step
    for step, cfg in build_steps(path, overrides):
        stage = stage_of(step.stage)
        inputs = [uri for _, uri in tables.read_places(cfg)]
        waits = [name for uri, name in unfinished.items() if any(tables.lies_within(given, uri) for given in inputs)]
        stopped = [step["step"] for step in plan if step["state"] in ("refused", "blocked")]
        if stopped:  # the run ends there
            claim = tables.Claim("blocked", f"{stopped[0]} is refused")
        elif waits:
            claim = tables.Claim("waits", f"runs after {', '.join(waits)}")
        elif isinstance(stage, tables.Stage):
            claim = _claim(stage, cfg)
        else:
            claim = tables.Claim("new", "serves until it is ended" if cfg.blocking else "")
        if claim.state != "finished" and hasattr(cfg, "output"):
            unfinished[cfg.output] = step.name
        facts = {"step": step.name, "stage": step.stage, "output": getattr(cfg, "output", "")}
        plan.append({**facts, "state": claim.state, "reason": claim.reason})
    return plan


def _claim(stage: tables.Stage[Any], cfg: Any) -> tables.Claim:
    """Return what a stage would do; an input that is missing refuses it."""
    try:
        return stage.claim(cfg)
    except RradError as error:
        return tables.Claim("refused", f"{error.place}: {error.problem}; {error.remedy}")


class StageCommand(TyperCommand):
    """The command of a stage; its help ends with the stage's keys, which take long to list: only when asked for."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the stage's keys into the help."""
        self.epilog = help_text(STAGES[str(self.name)][0])
        super().format_epilog(ctx, formatter)


def help_of(stage: str) -> str:
    """Return a stage's purpose as a sentence."""
    purpose = STAGES[stage][1]
    return f"{purpose[0].upper()}{purpose[1:]}."


def run_or_show(stage: str, schema: type, yaml: str, overrides: list[str] | None, show: bool) -> None:
    """Run a stage on a config, or print the config."""
    cfg: Any = _checked(load.load_config(schema, yaml, overrides or ()))
    print(config_yaml(cfg) if show else run_stage(stage, cfg))


def _add(stage: str, schema: type) -> None:
    @app.command(stage, cls=StageCommand, help=help_of(stage))
    def command(yaml: Yaml, overrides: Overrides = None, show: Show = False) -> None:
        run_or_show(stage, schema, yaml, overrides, show)


def config_yaml(cfg: Any) -> str:
    """Return a config as YAML."""
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.create(tables.plain(cfg))).rstrip()


@app.command("run", help="Run a pipeline: every step of the file in order; finished steps are skipped.")
def pipeline(yaml: Yaml, overrides: Overrides = None, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Run a pipeline, or say what a run would do."""
    if dry_run:
        plan = plan_pipeline(yaml, overrides or [])
        print(json.dumps(plan, indent=2) if as_json else "\n".join(plan_lines(plan)))
        return
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        uris = run_pipeline(yaml, overrides or [])
    if as_json:
        print(json.dumps(uris, indent=2))


def plan_lines(plan: list[dict[str, str]]) -> list[str]:
    """Return a line for each step: its name, what would be done with it, and why."""
    words = {
        "new": "would run",
        "resume": "would go on from a killed run",
        "finished": "would be skipped: finished",
        "refused": "would be refused",
        "waits": "would run",
        "blocked": "would not run",
    }
    width = max((len(step["step"]) for step in plan), default=0)
    return [
        f"{step['step']:{width}}  {words[step['state']]}" + (f": {step['reason']}" if step["reason"] else "")
        for step in plan
    ]


@app.command(
    "status", help="Show how far a run is, while it runs or after: a stage's output, or a pipeline's folder."
)
def show_status(
    run: Annotated[str, typer.Argument(help="a folder, local or s3://")], as_json: AsJson = False
) -> None:
    """Print how far a run is."""
    states = status.of_run(run)
    print(json.dumps(states, indent=2) if as_json else printable("\n".join(status.status_lines(states))))


@app.command(
    "inspect", help="Write a page over a sample of the judge's output or of labels, to look at in a browser."
)
def inspect_command(
    output: Annotated[str, typer.Argument(help="an output of judge or label, finished or not, local or s3://")],
    queries: Annotated[int, typer.Option(min=1, max=1000, help="the number of queries on the page")] = 100,
    by: Annotated[
        Literal["random", "status", "disagreement", "qrels"],
        typer.Option(help="at random, or the worst of a sample: by status, agreement of repeats, or nDCG@10"),
    ] = "random",
    split: Annotated[str, typer.Option(help="queries of this split only")] = "",
    query: Annotated[list[str] | None, typer.Option(help="the id of a query; may be repeated")] = None,
    page: Annotated[str, typer.Option(help="the file to write, local or s3://")] = "inspect.html",
) -> None:
    """Write the page and print where it stands."""
    from rrad_ray.labelling.inspection import inspection_page  # takes long to import

    tables.write_text(page, inspection_page(output, queries, by, split, query or ()))
    print(tables.absolute(page))


@app.command("doctor", help="Check what runs need: this machine, stores, and each node of RAY_ADDRESS's cluster.")
def show_doctor(
    uris: Annotated[list[str] | None, typer.Argument(help="a place for tables, as in s3://bucket/runs")] = None,
    model: Annotated[list[str] | None, typer.Option(help="a model to look for; may be repeated")] = None,
    engine: Annotated[str, typer.Option(metavar="MODEL", help="have vLLM start with a model and write a token")] = "",
    port: Annotated[int, typer.Option(min=1, max=65535, help="the port of `rrad serve`")] = 8000,
    as_json: AsJson = False,
) -> None:
    """Print each check as a line that says what to do; exit code 1 if one has failed."""
    from rrad_ray.runtime.doctor import Questions, examine
    from rrad_ray.runtime.doctor_check import line_of  # Ray and torch take seconds to import

    checks = []
    for check in examine(Questions(uris or (), model or (), engine, port)):
        checks.append(check)
        print(line_of(check), file=sys.stderr if as_json else sys.stdout, flush=True)
    failed = sum(check.state == "failed" for check in checks)
    print(json.dumps([vars(check) for check in checks], indent=2) if as_json else f"{failed} of {len(checks)} failed")
    if failed:
        raise typer.Exit(1)


@app.command("plan", help="Show how many pages an online test needs; the config is that of `experiment`.")
def show_plan(yaml: Yaml, overrides: Overrides = None) -> None:
    """Print how many pages an online test needs."""
    from rrad_ray.online import analysis  # SciPy and statsmodels take seconds to import

    cfg = load.build_config(TrafficConfig, design_of(load.load_values(ExperimentConfig, yaml, overrides or ())), yaml)
    print("\n".join(analysis.traffic_plan(cfg)))


def design_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return an experiment's values without those that only its reading needs; unknown keys stay, to be reported."""
    read_only = {key.name.partition(".")[0] for key in keys_of(ExperimentConfig)}
    read_only -= {key.name.partition(".")[0] for key in keys_of(TrafficConfig)}
    return {key: value for key, value in values.items() if key not in read_only}


@app.command("judge", cls=StageCommand, help=help_of("judge"))
def judge_command(
    yaml: Yaml,
    overrides: Overrides = None,
    show: Show = False,
    show_prompts: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="print all prompts of N queries as they would be sent, and run nothing"
        ),
    ] = None,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="print calls, tokens, hours and price of the run, and run nothing")
    ] = False,
) -> None:
    """Run `judge`, or print its config, prompts or cost."""
    if estimate:
        from rrad_ray.labelling.estimate import estimate_lines, estimated

        cfg = _checked(load.load_config(JudgeConfig, yaml, overrides or ()))
        print("\n".join(estimate_lines(cfg, estimated(cfg))))
        return
    if show_prompts is None:
        run_or_show("judge", JudgeConfig, yaml, overrides, show)
        return
    from rrad_ray.labelling.preview import preview  # takes long to import

    for text in preview(_checked(load.load_config(JudgeConfig, yaml, overrides or ())), show_prompts):
        print(text, end="\n\n", flush=True)


for _stage, (_schema, _) in STAGES.items():
    if _stage != "judge":
        _add(_stage, _schema)


def main(*command: str) -> None:
    """Run the `rrad` command, or one of its stages for `jobs/`; a user's mistake is one line on stderr and exit code
    2."""
    # Read by OpenMP when torch loads, here and in the workers of a local cluster. Threads that spin while they wait
    # made training ten times as slow when another process wanted one of two cores, and gained nothing on idle ones.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for name, value in {**QUIET_LIBRARIES, "RAY_DEDUP_LOGS_SKIP_REGEX": CHATTER}.items():  # Ray's, as it is imported
        os.environ.setdefault(name, value)
    spell_out()
    try:
        app([*command, *sys.argv[1:]])
    except RradError as error:
        print(printable(f"error: {error}"), file=sys.stderr, flush=True)
        sys.exit(2)
    except NothingToDo as end:
        print(end, flush=True)
