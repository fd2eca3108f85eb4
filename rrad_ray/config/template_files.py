"""Template files: those in `templates/prompts`, by name, and the user's, local or `s3://`.

They are read and checked as a config is built, on the user's machine, so that a wrong one costs nothing; the config
takes the content along to other machines.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from pydantic import TypeAdapter, ValidationError

from rrad_ray.config import texts
from rrad_ray.config.problems import first_error, problem_of
from rrad_ray.config.templates import (
    ExplainTemplate,
    GradeTemplate,
    LikelihoodTemplate,
    OrderTemplate,
    PromptTemplate,
    ScoreTemplate,
    TemplateProblem,
)
from rrad_ray.errors import RradError, in_stage

Template = TypeVar("Template", bound=PromptTemplate)

SHIPPED = Path(__file__).parents[1] / "templates" / "prompts"
TEMPLATES: dict[str, type[PromptTemplate]] = {
    "order": OrderTemplate,
    "explain": ExplainTemplate,
    "likelihood": LikelihoodTemplate,
    "grade": GradeTemplate,
    "score": ScoreTemplate,
}
WORDS_OF = {"score": "grade"}  # a task that also takes the templates of another, and reads their words alone
DEFAULTS = {
    "order": "order",
    "explain": "explain",
    "likelihood": "question",
    "grade": "grade",
}  # a task's template where none is named


def load_template(schema: type[Template], name: str, language: str = "") -> Template:
    """Return a template of this class: a shipped one by name, or a YAML file, local or `s3://`.

    An empty name is the task's own template, in this language where one is shipped; `score` has none.

    Raises `RradError` that names file and line, what is wrong there, and what to do.
    """
    if _is_file(name):
        from rrad_ray.tables.text import read_text

        with in_stage("config"):
            return _parsed(read_text(name), name, schema)
    own = DEFAULTS.get(_task(schema), "")
    if (SHIPPED / f"{own}-{language}.yaml").is_file():
        own = f"{own}-{language}"
    return cast(Template, _shipped(name or own, _task(schema)))


def _is_file(name: str) -> bool:
    return name.endswith((".yaml", ".yml")) or "/" in name


def template_place(name: str, key: str) -> str:
    """Return the file and line of a key of a template that can be read; of a shipped one its name."""
    if not _is_file(name):
        return f"template={name}"
    from rrad_ray.tables.text import read_text

    text = read_text(name)
    return f"{name}:{_line(yaml.compose(text, yaml.SafeLoader), text, [key])}"


def _task(schema: type[PromptTemplate]) -> str:
    return next(task for task, each in TEMPLATES.items() if each is schema)


@functools.cache
def _shipped(name: str, task: str) -> PromptTemplate:
    with in_stage("config"):
        path = SHIPPED / f"{name}.yaml"
        if not path.is_file():
            names = shipped_templates(task)
            near = difflib.get_close_matches(name, names, n=1)
            hint = f" (did you mean: '{near[0]}')" if near else ""
            remedy = f"choose one of {', '.join(names)}, or give the path of a file that ends in .yaml"
            raise RradError("template", f"no shipped template '{name}'{hint}", remedy)
        return _parsed(path.read_text(encoding="utf-8"), f"rrad_ray/templates/prompts/{name}.yaml", TEMPLATES[task])


def shipped_templates(task: str) -> list[str]:
    """Return the names of the shipped templates for a task."""
    texts_of = {path.stem: f"\n{path.read_text(encoding='utf-8')}" for path in SHIPPED.glob("*.yaml")}
    lines = [f"\ntask: {each}\n" for each in (task, WORDS_OF.get(task))]
    return sorted(name for name, text in texts_of.items() if any(line in text for line in lines))


def _parsed(text: str, uri: str, schema: type[Template]) -> Template:
    """Return the template that a text holds; `uri`: where the text is from."""
    task = _task(schema)
    values, root = _content(text, uri)
    if not isinstance(values, dict):
        raise RradError(f"{uri}:1", "not a mapping of keys to values", "write `key: value` lines, `task: ...` first")
    if values.get("task") not in TEMPLATES:
        problem = f"task={values.get('task')!r}: what the template is for"
        raise RradError(f"{uri}:{_line(root, text, ['task'])}", problem, f"write one of {', '.join(TEMPLATES)}")
    if values["task"] == WORDS_OF.get(task):
        schema = cast(type[Template], TEMPLATES[values["task"]])
    elif values["task"] != task:
        where = f"{uri}:{_line(root, text, ['task'])}"
        remedy = f"take a template for it: {', '.join(shipped_templates(task))}, or one of your own"
        raise RradError(where, f"a template for task={values['task']}, and the config has task={task}", remedy)
    try:
        return TypeAdapter(schema).validate_python(values)
    except ValidationError as error:
        first = first_error(error)
        refused = first.get("ctx", {}).get("error")
        if isinstance(refused, TemplateProblem):
            where = f"{uri}:{_line(root, text, refused.path, refused.words)}"
            raise RradError(where, f"{_dotted(refused.path)}: {refused.problem}", refused.remedy) from error
        where = f"{uri}:{_line(root, text, first['loc'])}"
        remedy = "write the key" if first["type"] == "missing" else "mend the template"
        raise RradError(where, problem_of(schema, first), remedy) from error


def _content(text: str, uri: str) -> tuple[Any, yaml.Node | None]:
    """Return the content of YAML, with its scalars as they are written, and its nodes, which know their lines."""
    try:
        values, root = texts.read_texts(text), yaml.compose(text, yaml.SafeLoader)
        tokens = yaml.scan(text, yaml.SafeLoader)
        scalars = [token for token in tokens if isinstance(token, yaml.ScalarToken)]
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{uri}:{mark.line + 1}" if mark else uri
        raise RradError(where, f"not YAML: {getattr(error, 'problem', error)}", "mend the file") from error
    except RecursionError as error:
        raise RradError(uri, "its brackets are nested too deeply", "mend the file") from error
    for scalar in scalars:
        try:
            scalar.value.encode()
        except UnicodeEncodeError as error:
            line = scalar.start_mark.line + 1
            problem = f"half a character: {scalar.value[error.start : error.end]!r}"
            raise RradError(f"{uri}:{line}", problem, "write the character itself, not its escapes") from error
    return values, root


def _dotted(path: Sequence[int | str]) -> str:
    return ".".join(map(str, path))


def _line(root: yaml.Node | None, text: str, path: Sequence[int | str], words: str = "") -> int:
    """Return the line, from 1, of the value at a path of keys or of what is nearest above it: the line of it that has
    the `words`."""
    node = root
    if node is None:
        return 1
    for key in path:
        if isinstance(node, yaml.MappingNode):
            values = {name.value: value for name, value in node.value}
        else:
            values = dict(enumerate(node.value)) if isinstance(node, yaml.SequenceNode) else {}
        if key not in values:
            break
        node = values[key]
    first, last = node.start_mark.line, node.end_mark.line
    lines = text.splitlines()[first : last + 1]
    return first + 1 + next((number for number, line in enumerate(lines) if words and words in line), 0)
