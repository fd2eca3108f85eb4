"""The documentation says what is there: links, commands, config keys, paths and names, and snippets that run."""

from __future__ import annotations

import importlib
import inspect
import re
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest
import typer
from omegaconf import OmegaConf

from rrad_ray.cli import app
from rrad_ray.config import load
from rrad_ray.config.catalog import STAGES
from rrad_ray.config.reference import keys_of
from rrad_ray.serving import requests
from rrad_ray.training.losses import LOSSES
from tests.commands import ROOT
from tests.docs.markdown import Page, pages

PAGES = pages()
EVERY = pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
PLACEHOLDER = re.compile(r"\.\.\.|…|[A-Z]{3,}")  # `rrad STAGE ...`: no command, but the form of one
PATH = re.compile(r"(?<![\w/.-])(?:rrad_ray|benchmarks|configs|cluster|integrations|jobs|tests|docs|locks)/[\w./*-]*")
DOTTED = re.compile(r"(?<![\w./])rrad_ray(?:\.\w+)+")


# ---- links and names ----------------------------------------------------------------------------------------


@EVERY
def test_every_link_leads_somewhere(page: Page) -> None:
    for link in page.links:
        if re.match(r"https?://|mailto:", link):
            continue
        target, _, anchor = link.partition("#")
        path = (page.path.parent / target).resolve() if target else page.path
        assert path.exists(), f"{page.name}: {link}"
        if anchor:
            assert anchor in Page(path).anchors, f"{page.name}: {link}; anchors: {sorted(Page(path).anchors)}"


def test_every_page_of_docs_is_reached_from_the_index() -> None:
    reached, todo = set[Path](), [ROOT / "docs" / "README.md"]
    while todo:
        path = todo.pop()
        if path not in reached and path.suffix == ".md" and path.is_relative_to(ROOT / "docs"):
            reached.add(path)
            links = [link.partition("#")[0] for link in Page(path).links if "://" not in link]
            todo += [(path.parent / link).resolve() for link in links if link]
    assert {page.path for page in PAGES if page.name.startswith("docs/")} <= reached


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 200


@EVERY
def test_every_path_that_is_named_exists(page: Page) -> None:
    for found in PATH.findall(re.sub(r"\]\([^)]*\)", "]", page.text)):
        path = re.sub(r"\b[A-Z]{2,}\b", "*", found.rstrip(".-"))
        assert list(ROOT.glob(path)) if "*" in path else (ROOT / path).exists(), f"{page.name}: {found}"


@EVERY
def test_every_name_of_ours_that_is_named_exists(page: Page) -> None:
    for name in DOTTED.findall(page.prose):
        assert exists(name), f"{page.name}: {name}"


def exists(name: str) -> bool:
    """Whether a dotted name is a module, or something in one."""
    parts = name.split(".")
    for stop in range(len(parts), 0, -1):
        try:
            thing: Any = importlib.import_module(".".join(parts[:stop]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[stop:]:
            thing = getattr(thing, attribute, None)
        return thing is not None
    return False


# ---- commands -----------------------------------------------------------------------------------------------


@EVERY
def test_every_command_is_one_that_the_program_takes(page: Page) -> None:
    for words in page.commands():
        while words and re.fullmatch(r"\w+=\S*", words[0]):  # VARIABLE=value in front
            words = words[1:]
        if words[:3] == ["ray", "job", "submit"] and "--" in words:
            words = words[words.index("--") + 1 :]
        if words:
            check(words, f"{page.name}: {' '.join(words)}")


def check(words: list[str], where: str) -> None:
    """Asserts that a command names an existing stage, module, target and config file, and keys that it has."""
    program, *rest = words
    program = program.removeprefix(".venv/bin/")
    if program == "make":
        targets = [word for word in rest if "=" not in word]
        assert set(targets) <= TARGETS, where
    elif program == "python" and rest[:1] == ["-m"] and len(rest) > 1 and rest[1].partition(".")[0] in OURS:
        if not PLACEHOLDER.search(rest[1]):
            assert importlib.util.find_spec(rest[1]), where
            check_options(rest[1], rest[2:], where)
    elif program == "python" and rest[:1] and rest[0].endswith(".py"):
        assert (ROOT / rest[0]).is_file(), where
        if rest[0].startswith("jobs/"):
            called = re.search(r'main\("(\w+)"\)', (ROOT / rest[0]).read_text(encoding="utf-8"))
            assert called, where
            check_rrad([called[1], *rest[1:]], where)
    elif program == "rrad" and rest:
        check_rrad(rest, where)


OURS = {"benchmarks", "rrad_ray", "tests", "docs"}


def check_options(module: str, options: list[str], where: str) -> None:
    """Asserts that a benchmark has the options that a page gives it."""
    text = (ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8")
    for shared in ("command", *re.findall(r"students\.(?:ONLY|SEEDS)", text)[:1]):  # options that several have
        text += (ROOT / "benchmarks" / f"{shared.partition('.')[0]}.py").read_text(encoding="utf-8")
    for option in options:
        if option.startswith("--"):
            assert option in text, where


def check_rrad(words: list[str], where: str) -> None:
    stage, *rest = words
    if PLACEHOLDER.search(stage) or stage.startswith("-"):
        return
    commands: Any = getattr(typer.main.get_command(app), "commands", {})
    assert stage in commands, where
    options = {"--help", *(option for each in commands[stage].params for option in each.opts)}
    assert {word for word in rest if word.startswith("--")} <= options, where
    rest = [word for word in rest if not word.startswith("--")]
    if not rest or stage in ("status", "inspect", "doctor") or PLACEHOLDER.search(rest[0]):
        return
    config, *overrides = rest
    overrides = [word for word in overrides if "=" in word]
    path = ROOT / load.config_file(config)  # a file, or the name of one of ours
    assert path.is_file(), where
    if stage == "run":
        given = {word.partition("=")[0] for word in overrides}
        missing = [f"{key}=x" for key in open_keys(path) if key not in given]
        _, steps = load.load_pipeline(str(path), [*overrides, *missing])
        for step in steps:
            load.build_config(STAGES[step.stage][0], step.values, where)
        return
    schema = STAGES["experiment" if stage == "plan" else stage][0]
    given = {word.partition("=")[0] for word in overrides} | (set(load.read_yaml(str(path))) - set(open_keys(path)))
    missing = [f"{key}=x" for key in mandatory(schema) if key not in given]
    load.load_config(schema, str(path), [*overrides, *missing])


def open_keys(path: Path) -> list[str]:
    """The keys that a config file leaves to the user."""
    node = load.read_yaml(str(path))
    return [str(key) for key in node if OmegaConf.is_missing(node, str(key))]


def mandatory(schema: type) -> list[str]:
    """The keys of a config class that have no default."""
    return [field.name for field in fields(schema) if field.default is field.default_factory is MISSING]


def test_the_check_of_commands_sees_what_is_wrong() -> None:
    for wrong in (
        "rrad jduge configs/judge.yaml",
        "rrad judge configs/no.yaml",
        "rrad judge configs/judge.yaml wrokers=8",
        "rrad judge configs/judge.yaml --no-such-option",
        "make dmeo",
        "python -m benchmarks.nothing",
        "python -m benchmarks.scale --no-such-option",
        "rrad run configs/beir/pipeline.yaml data=x steps.encoder.no_such_key=1",
        "python jobs/nothing.py configs/judge.yaml",
    ):
        with pytest.raises(Exception):  # noqa: B017, PT011 - an assertion, or the program's own error
            check(wrong.split(), wrong)
    check(["rrad", "judge", "configs/judge.yaml", "input=a", "output=b", "num_workers=8"], "right")


def keys_and_sections() -> set[str]:
    """All keys of all stages, with dots, and the keys above them; the variables of pipelines; options of
    losses; fields of requests."""
    names = {key.name for schema, _ in STAGES.values() for key in keys_of(schema)}
    names |= {name.rpartition(".")[0] for name in names if "." in name}
    for path in (ROOT / "configs").rglob("pipeline.yaml"):
        names |= set(map(str, load.read_yaml(str(path))))
    for loss in LOSSES.values():
        names |= set(inspect.signature(loss).parameters)
    for request in (requests.RerankRequest, requests.TeiRequest, requests.ScoreRequest, requests.SearchRequest):
        names |= set(request.model_fields)
    return names | {"base", "stage", "key"}  # of files, of steps, and `key=value` itself


@EVERY
def test_every_key_in_prose_is_a_key(page: Page) -> None:
    known = keys_and_sections()
    if page.name == "docs/configuration.md":
        return
    for span in page.spans:
        if found := re.fullmatch(r"(?:-\S+ )?([a-z][a-z_.]*)(?:=(?!=)|: )\S.*", span):
            key = re.sub(r"^(?:students|runs|qrels|models|weights|queries)\.\w+$|^steps\..*", "input", found[1])
            assert key in known, f"{page.name}: {span}"


# ---- tables of keys -----------------------------------------------------------------------------------------


def test_the_options_of_the_endpoint_are_keys_with_these_defaults() -> None:
    text = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    section = text.partition("## Options")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if "| `" in line]
    cfg: Any = load.load_config(STAGES["serve"][0], str(ROOT / "configs" / "serve.yaml"), ["input=x"])
    defaults: Any = load.build_config(STAGES["serve"][0], {"input": "x"}, "defaults")
    assert len(rows) > 10
    for keys, values, *_ in rows:
        names = re.findall(r"`(\w+)`", keys)
        shown = values.replace("`", "").split(", ")
        for name, value in zip(names, shown if len(names) > 1 else [values.replace("`", "")], strict=True):
            assert hasattr(cfg, name), name
            default = getattr(defaults, name)
            if value == "none":
                assert not default or not any(
                    vars(default)[key] for key in ("corpus", "events") if key in vars(default)
                )
            elif isinstance(default, dict):
                assert value == "{" + ", ".join(f"{key}: {number:g}" for key, number in default.items()) + "}", name
            elif isinstance(default, str):
                assert value == default, name
            else:
                assert float(value) == default, name


def test_every_loss_stands_in_the_table() -> None:
    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    section = text.partition("## Losses")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    assert set(LOSSES) <= {name for row in rows for name in re.findall(r"`(\w+)`", row)}


# ---- error messages -----------------------------------------------------------------------------------------


def messages() -> list[str]:
    """The messages in the first column of the tables of docs/troubleshooting.md."""
    page = Page(ROOT / "docs" / "troubleshooting.md")
    firsts = [line.split(" | ")[0] for line in page.prose.splitlines() if line.startswith("| ")]
    return [message for first in firsts for message in re.findall(r"`([^`]+)`", first)]


def said() -> str:
    """All text of the program, with the pieces of a string joined; and the same without what f-strings fill in."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "rrad_ray").rglob("*.py")))
    text = re.sub(r"[\"']\s*\n\s*f?[\"']", "", text.replace("`", ""))
    return " ".join(f"{text} {re.sub(r'{[^{}]*}', ' ', text)}".split())


def test_every_message_of_the_troubleshooting_page_is_one_that_the_program_gives() -> None:
    text = said()
    assert len(messages()) > 60
    for message in messages():
        for piece in message.split("..."):
            piece = piece.strip(" ()")
            assert piece in text, f"{message!r}: {piece!r}"


def test_every_patch_stands_in_the_list_of_the_upgrading_page() -> None:
    text = (ROOT / "docs" / "upgrading.md").read_text(encoding="utf-8")
    patches = [path.name for path in (ROOT / "rrad_ray" / "patches").glob("*.py") if path.name != "__init__.py"]
    assert len(patches) >= 4
    assert [name for name in patches if f"`rrad_ray/patches/{name}`" not in text] == []
