"""YAML and `key=value` overrides into a config class: OmegaConf merges, pydantic checks, a typo names its
neighbour, and a text key takes what was written (`texts`)."""

from __future__ import annotations

import difflib
import os
import posixpath
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import TypeAdapter, ValidationError
from yaml import YAMLError

from rrad_ray import tables
from rrad_ray.config import texts
from rrad_ray.config.catalog import STAGES
from rrad_ray.config.problems import problem_of
from rrad_ray.errors import RradError, at_place, in_stage
from rrad_ray.uris import SCHEME, is_s3

Schema = TypeVar("Schema")
CONFIGS = Path(__file__).resolve().parents[1] / "configs"
MISSING = "???"  # OmegaConf's mark of a value that the user must give


def config_file(path: str) -> str:
    """Return the path of a config that comes with rrad-ray where its name is given, as `judge-order` or
    `demo/pipeline`; any other path as it is."""
    shipped = CONFIGS / f"{path}.yaml"
    return str(shipped) if not is_s3(path) and not os.path.exists(path) and shipped.is_file() else path


@in_stage("config")
def read_yaml(path: str, above: tuple[str, ...] = (), *, as_texts: bool = False) -> DictConfig:
    """Return the content of a YAML file, or of a config of ours by its name (`config_file`), merged over that of the
    file that its `base:` names, relative to it.

    `above`: the files whose `base` led here. `as_texts`: scalars as they are written. Raises `RradError` for a file
    that cannot be read, is no YAML mapping, or is its own base.
    """
    path = config_file(path)
    if path in above:
        raise RradError(path, f"is its own base ({' -> '.join((*above, path))})", "mend the `base:` keys")
    text = tables.read_text(path)
    try:
        node = OmegaConf.create(texts.read_texts(text) or {} if as_texts else text)
    except (YAMLError, OmegaConfBaseException) as error:
        raise RradError(path, f"not YAML: {error}", "mend the file") from error
    except RecursionError as error:
        raise RradError(path, "its brackets are nested too deeply", "mend the file") from error
    if not isinstance(node, DictConfig):
        raise RradError(path, "not a mapping of keys to values", "write `key: value` lines")
    base = node.pop("base", None)
    if base is None:
        return node
    if not isinstance(base, str):
        raise RradError(path, f"base={base!r} is no path", "write `base: OTHER.yaml`")
    merged = OmegaConf.merge(read_yaml(_base_uri(path, base), (*above, path), as_texts=as_texts), node)
    assert isinstance(merged, DictConfig)
    return merged


def _base_uri(path: str, base: str) -> str:
    """Return the file that `base:` names in the file at `path`: an absolute path, one below `~` and a URI are
    themselves, another path is relative to that file's folder."""
    if base.startswith("~") or SCHEME.match(base):
        return base
    return posixpath.normpath(posixpath.join(path.rpartition("/")[0] or ".", base)).replace("s3:/", "s3://", 1)


def _first_line(error: Exception) -> str:
    """Return the first line of an OmegaConf error, with the key that it is about."""
    line, key = str(error).strip().splitlines()[0], str(getattr(error, "full_key", None) or "")
    return line if key in line else f"{key}: {line}"


def _without_missing(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values without keys that are `???`, so that they count as not given."""
    return {
        str(key): _without_missing(value) if isinstance(value, Mapping) else value
        for key, value in values.items()
        if not (isinstance(value, str) and value == MISSING)
    }


@in_stage("config")
def build_config(schema: type[Schema], values: Mapping[str, Any], place: str) -> Schema:
    """Return a config class from plain values.

    Raises `RradError` that names the place, each wrong key, its value and what is wanted.
    """
    try:
        return TypeAdapter(schema).validate_python(_without_missing(values))
    except ValidationError as error:
        errors = error.errors()
        missing = sorted(".".join(map(str, each["loc"])) for each in errors if each["type"] == "missing")
        others = [problem_of(schema, each) for each in errors if each["type"] != "missing"]
        if others:  # an unknown key is often the missing one, misspelt
            raise RradError(place, "; ".join(dict.fromkeys(others)), "mend the YAML or the override") from error
        keys = ", ".join(missing)
        raise RradError(place, f"no value for {keys}", "set it in the YAML or as key=value") from error


def load_values(schema: type, path: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Return the plain values of a YAML file with overrides on top, with the texts of `schema` as they are written.

    Raises `RradError` as `load_config` does.
    """
    read, is_text = [], lambda path, _: texts.is_text(schema, path)
    for as_texts in (False, True):
        try:
            node = override(read_yaml(path, as_texts=as_texts), overrides, is_text, as_texts)
            read.append(OmegaConf.to_container(node, resolve=True))
        except OmegaConfBaseException as error:
            with in_stage("config"):
                raise RradError(path, _first_line(error), "mend the YAML or the override") from error
    with in_stage("config"), at_place(path, "mend the YAML or the override"):
        values = texts.with_texts(schema, *read)
    return {str(key): value for key, value in values.items()}


def load_config(schema: type[Schema], path: str, overrides: Sequence[str] = ()) -> Schema:
    """Return one stage's config from its YAML and `key=value` overrides.

    Raises `RradError` for an unknown key (naming the nearest), a wrong type, a missing or a forbidden value.
    """
    return build_config(schema, load_values(schema, path, overrides), path)


@in_stage("config")
def override(
    node: DictConfig, overrides: Sequence[str], is_text: Callable[[list[str], str], bool], as_texts: bool = False
) -> DictConfig:
    """Return the values with `["lr=1e-4", "gate.enabled=false", "resources={CPU: 2}"]` on top.

    A mapping replaces a mapping. `is_text`: says of a key's path, and of what stands behind the `=`, whether that is
    the value as it stands. `as_texts`: it is for other keys too, and lists and mappings hold texts. Raises
    `RradError` for an override that is not `key=value`.
    """
    for each in overrides:
        key, equals, text = each.partition("=")
        if not equals or not key:
            raise RradError(each, "not of the form key=value", "write key=value")
        try:
            if is_text(key.split("."), text) or (as_texts and not texts.is_container(text)):
                value: Any = text
            elif as_texts:
                value = texts.read_texts(text)
            else:
                value = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]))["value"]  # type: ignore
            OmegaConf.update(node, key, value, merge=False)
        except (YAMLError, OmegaConfBaseException) as error:
            raise RradError(each, f"not a value: {_first_line(error)}", "quote it") from error
    return node


@dataclass(frozen=True)
class Step:
    """One step of a pipeline: its name, the stage that runs it, and the stage's config as plain values."""

    name: str
    stage: str
    values: dict[str, Any]


@in_stage("config")
def load_pipeline(path: str, overrides: Sequence[str] = ()) -> tuple[dict[str, Any], list[Step]]:
    """Return the variables and the steps of a pipeline file: `steps:` in order, which refer to variables as
    `${name}`.

    A step's stage is its name, or its `stage:` key. Raises `RradError` for an override of a variable or step that the
    file does not have.
    """
    node = read_yaml(path)
    if not isinstance(node.get("steps"), DictConfig):
        raise RradError(path, "has no `steps:`", "list the stages to run under `steps:`")
    is_text = partial(_is_step_text, node.steps)
    merged = override(read_yaml(path), overrides, is_text)
    _check_variables(path, merged)
    _check_names(path, node, override(OmegaConf.create(), overrides, is_text))
    read: list[Any] = []
    for each in (merged, override(read_yaml(path, as_texts=True), overrides, is_text, True)):
        try:
            read.append(OmegaConf.to_container(each, resolve=True, throw_on_missing=True))
        except OmegaConfBaseException as error:
            raise RradError(path, _first_line(error), _missing(each, _first_line(error))) from error
    values, written = read
    steps = []
    for name, step in values.pop("steps").items():
        if not isinstance(step, dict):
            raise RradError(path, f"steps.{name} is {step!r}, not a mapping", "write its keys under it")
        if not isinstance(name, str):
            raise RradError(path, f"steps.{name!r}: the name of a step is no text to YAML", "put it in quotes")
        stage, given = step.pop("stage", name), written["steps"][name]
        if not isinstance(stage, str):
            raise RradError(path, f"steps.{name}.stage={stage!r} is no text", f"name one of {', '.join(STAGES)}")
        given.pop("stage", None)
        schema = STAGES[stage][0] if stage in STAGES else None
        with at_place(f"{path}: steps.{name}", "mend the YAML or the override"):
            steps.append(Step(str(name), stage, texts.with_texts(schema, step, given)))
    return {str(key): value for key, value in values.items()}, steps


def _missing(node: DictConfig, problem: str) -> str:
    """Return what to do about a variable that is not there: name it, or those that are made of it."""
    key = re.search(r"Interpolation key '(\w+)\.", problem)
    if key is None:
        return "give it as key=value on the command line"
    variables = {str(name): str(raw) for name, raw in OmegaConf.to_container(node, resolve=False).items()}  # type: ignore
    names = [f"{name}=VALUE" for name, raw in variables.items() if f"${{{key[1]}." in raw and name != "steps"]
    return f"give {' '.join(names) or 'it as key=value'} on the command line"


def _check_variables(path: str, node: DictConfig) -> None:
    """Raise `RradError` for a variable without a value that a text holds, which would read `None/candidates`."""
    variables = OmegaConf.to_container(node, resolve=False)
    assert isinstance(variables, dict)
    empty = [str(key) for key, value in variables.items() if value is None]
    text = OmegaConf.to_yaml(node, resolve=False)
    for key in empty:
        if re.search(rf"[^\s'\"]\$\{{{re.escape(key)}\}}|\$\{{{re.escape(key)}\}}[^\s'\"]", text):
            raise RradError(path, f"{key} has no value, and paths are made of it", f"give it as {key}=VALUE")


def _check_names(path: str, node: DictConfig, change: DictConfig) -> None:
    """Raise `RradError` for an override of a variable or a step that the pipeline `node` does not have."""
    changed = change.get("steps", {})
    if not isinstance(changed, Mapping):
        raise RradError(path, f"steps={changed!r} is no mapping", "override as steps.NAME.KEY=VALUE")
    for prefix, given, names in (("", change, node), ("steps.", changed, node.steps)):
        known = list(names)  # of the mapping itself, a variable that is still `???` is no member
        for key in given:
            if key not in known:
                near = difflib.get_close_matches(str(key), [str(name) for name in known], n=1)
                hint = f"did you mean '{prefix}{near[0]}'?" if near else f"known: {', '.join(map(str, known))}"
                raise RradError(path, f"unknown key '{prefix}{key}'", hint)


def _is_step_text(steps: Mapping[Any, Any], path: list[str], value: str) -> bool:
    """Return whether a key of a pipeline such as `steps.encoder.output` takes text; a variable takes what is no YAML
    as text."""
    if path[0] != "steps":
        return not texts.is_yaml(value)
    if len(path) < 3:
        return False
    step = steps.get(path[1])
    stage = step.get("stage", path[1]) if isinstance(step, Mapping) else path[1]
    return isinstance(stage, str) and stage in STAGES and texts.is_text(STAGES[stage][0], path[2:])
