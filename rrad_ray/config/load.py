"""YAML and `key=value` overrides into a frozen dataclass, by OmegaConf; a typo names the key it should have been."""

from __future__ import annotations

import difflib
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from rrad_ray import tables
from rrad_ray.errors import RradError, in_stage

C = TypeVar("C")


@in_stage("config")
def read_yaml(path: str, above: tuple[str, ...] = ()) -> DictConfig:
    """A YAML file; with `base: OTHER.yaml` (relative to it) on top of that other one.

    `above`: the files whose `base` led here.
    """
    if path in above:
        raise RradError(path, f"is its own base ({' -> '.join((*above, path))})", "mend the `base:` keys")
    text = tables.read_text(path)
    try:
        node = OmegaConf.create(text)
    except (YAMLError, OmegaConfBaseException) as error:
        raise RradError(path, f"not YAML: {error}", "mend the file") from error
    if not isinstance(node, DictConfig):
        raise RradError(path, "not a mapping of keys to values", "write `key: value` lines")
    base = node.pop("base", None)
    if base is None:
        return node
    if not isinstance(base, str):
        raise RradError(path, f"base={base!r} is no path", "write `base: OTHER.yaml`")
    below = posixpath.normpath(tables.join(path.rpartition("/")[0] or ".", base)).replace("s3:/", "s3://", 1)
    merged = OmegaConf.merge(read_yaml(below, (*above, path)), node)
    assert isinstance(merged, DictConfig)
    return merged


def _found(error: Exception) -> str:
    """What an error says, with the key that it is about."""
    found, key = str(error).strip().splitlines()[0], str(getattr(error, "full_key", None) or "")
    return found if key in found else f"{key}: {found}"


@in_stage("config")
def build_config(schema: type[C], values: Any, place: str) -> C:
    """Values checked against a dataclass; `RradError` names the place, the key and what it wanted."""
    try:
        node = OmegaConf.structured(schema)
        OmegaConf.set_readonly(node, False)  # frozen dataclasses make it so
        for key, value in values.items():
            if isinstance(value, Mapping) and key in node and OmegaConf.get_type(node, key) is dict:
                node[key] = {}  # a mapping that is given stands for the default one, it is not mixed into it
        node = OmegaConf.merge(node, values)
        missing = OmegaConf.missing_keys(node)
        if missing:
            keys = ", ".join(sorted(missing))
            raise RradError(place, f"no value for {keys}", "set it in the YAML or as key=value")
        result = OmegaConf.to_object(node)
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        raise RradError(place, _found(error), "mend the YAML or the override") from error
    assert isinstance(result, schema)
    return result


@in_stage("config")
def load_config(schema: type[C], path: str, overrides: Sequence[str] = ()) -> C:
    """One stage's config from its YAML and `key=value` overrides.

    Raises `RradError` for an unknown key (naming the nearest), a wrong type, a missing or a forbidden value.
    """
    return build_config(schema, override(read_yaml(path), overrides), path)


@in_stage("config")
def override(node: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """The config with `["lr=1e-4", "gate.enabled=false", "worker={CPU: 2}"]` on top; a mapping replaces a mapping."""
    for text in overrides:
        key, equals, _ = text.partition("=")
        if not equals or not key:
            raise RradError(text, "not of the form key=value", "write key=value")
        try:
            given = OmegaConf.from_dotlist([text])
            OmegaConf.update(node, key, OmegaConf.select(given, key), merge=False)
        except (YAMLError, OmegaConfBaseException) as error:
            raise RradError(text, f"not a value: {_found(error)}", "quote it") from error
    return node


@dataclass(frozen=True)
class Step:
    """One step of a pipeline: its name, the stage that runs it, and the stage's config as plain values."""

    name: str
    stage: str
    values: dict[str, Any]


@in_stage("config")
def load_pipeline(path: str, overrides: Sequence[str] = ()) -> tuple[dict[str, Any], list[Step]]:
    """A pipeline file: variables at the top, and `steps:` in order, which refer to them as `${name}`.

    A step's stage is its name, or its `stage:` key. Returns the variables and the steps. Raises `RradError` for an
    override of a variable or step that the file does not have.
    """
    node, change = read_yaml(path), override(OmegaConf.create(), overrides)
    if not isinstance(node.get("steps"), DictConfig):
        raise RradError(path, "has no `steps:`", "list the stages to run under `steps:`")
    changed = change.get("steps", {})
    if not isinstance(changed, Mapping):
        raise RradError(path, f"steps={changed!r} is no mapping", "override as steps.NAME.KEY=VALUE")
    for where, given, names in (("", change, node), ("steps.", changed, node.steps)):
        known = list(names)  # of the mapping itself, a variable that is still `???` is no member
        for key in given:
            if key not in known:
                near = difflib.get_close_matches(str(key), [str(name) for name in known], n=1)
                hint = f"did you mean '{where}{near[0]}'?" if near else f"known: {', '.join(map(str, known))}"
                raise RradError(path, f"unknown key '{where}{key}'", hint)
    merged = override(node, overrides)
    try:
        values = OmegaConf.to_container(merged, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise RradError(path, _found(error), "give it as key=value on the command line") from error
    assert isinstance(values, dict)
    for name, step in values["steps"].items():
        if not isinstance(step, dict):
            raise RradError(path, f"steps.{name} is {step!r}, not a mapping", "write its keys under it")
    steps = [Step(str(name), step.pop("stage", str(name)), step) for name, step in values.pop("steps").items()]
    return {str(key): value for key, value in values.items()}, steps
