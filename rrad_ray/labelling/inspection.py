"""A sample of the judge's output or of labels, to be looked at: `rrad inspect OUTPUT` writes it as one HTML page."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from markupsafe import Markup

from rrad_ray import tables
from rrad_ray.config import JudgeConfig, load
from rrad_ray.errors import RradError, in_stage
from rrad_ray.evaluation import metrics
from rrad_ray.evaluation.theme import render_page, source_hash
from rrad_ray.labelling import teacher
from rrad_ray.labelling.aggregation import Verdict
from rrad_ray.labelling.answers import ParsedOrder
from rrad_ray.labelling.label_quality import candidate_ranks, repeat_agreement
from rrad_ray.labelling.preview import PromptTexts
from rrad_ray.labelling.source import source_reader
from rrad_ray.progress import say
from rrad_ray.rows import JudgeOutput, Labels, Row, misfit
from rrad_ray.tables.claims import find_started
from rrad_ray.tables.manifest import find_manifest
from rrad_ray.tables.sampling import Draw, drawn_rows, named_rows

By = Literal["random", "status", "disagreement", "qrels"]
POOL = 2000  # rows that the worst ones are looked for among
STATUSES = ("rejected", "repaired", "ok")  # of an answer, the worst first


@dataclass(frozen=True)
class Table:
    """The table that is looked at: finished or not, the judge's output or labels made of it.

    `judged`: the judge's output below labels, empty where it is not there any more. `asked`: the config by which the
    answers were asked for; None where it cannot be known, and `problem` says why no prompt is shown.
    """

    uri: str
    row: type
    names: Sequence[str]
    config: dict[str, Any]
    rows: int = 0
    quarantined: dict[str, int] = field(default_factory=dict)
    judged: str = ""
    asked: JudgeConfig | None = None
    problem: str = ""


@in_stage("inspect")
def inspection_page(
    uri: str, count: int, by: By = "random", split: str = "", query_ids: Sequence[str] = (), seed: int = 0
) -> str:
    """Return a page over `count` queries of a table, or over those named.

    Raises `RradError` for what is no output of `judge` or `label`, for a named query that it does not have, and where
    no query is left to show.
    """
    table = _opened(uri)
    views = _views(table, _chosen(table, count, by, split, query_ids, random.Random(seed)))
    if not views:
        raise RradError(uri, "no query to show there", "name another split, or leave --by, --split and --query out")
    style = Markup(render_page("style.css.j2") + render_page("inspect.css"))
    script = Markup(render_page("inspect.js"))
    policy = f"default-src 'none'; style-src {source_hash(style)}; script-src {source_hash(script)}; "
    policy += "base-uri 'none'; form-action 'none'"
    return render_page(
        "inspect.html.j2", table=table, views=views, by=by, split=split, named=bool(query_ids),
        statuses=Counter(view["status"] for view in views), splits=sorted({view["split"] for view in views}),
        style=style, script=script, policy=policy,
    )  # fmt: skip


def _opened(uri: str) -> Table:
    """Return the table at `uri`; of a run that has not finished, or was stopped by its gate, the parts that stand."""
    manifest = find_manifest(uri)
    run = manifest or find_started(uri)
    stage, config = (run.stage, run.config) if run else ("", {})
    if stage not in ("judge", "label"):
        problem = f"is the output of {stage}" if stage else "no output of a stage stands there"
        raise RradError(uri, problem, "name an output of judge or label")
    names = tables.finished_parts(uri) if manifest else tables.part_names(uri)
    judged = uri if stage == "judge" else str(config["input"])
    if stage == "label" and (below := find_manifest(judged)) is not None and below.stage != "judge":
        judged = ""  # labels that no LLM was asked for
    asked, problem = _asked(judged) if judged else (None, "no LLM was asked")
    facts = {"rows": sum(part["rows"] for part in (manifest.parts or {}).values())} if manifest else {}
    quarantined = manifest.quarantined if manifest else {}
    kind = JudgeOutput if stage == "judge" else Labels
    return Table(
        uri, kind, names, config, quarantined=quarantined, judged=judged, asked=asked, problem=problem, **facts
    )


def _asked(uri: str) -> tuple[JudgeConfig | None, str]:
    """Return the config by which the answers in a table were asked for; or None, and why it is not known."""
    run = find_manifest(uri) or find_started(uri)
    if run is None:
        return None, f"{uri} is not there any more"
    config = run.config
    if config.get("task") == "explain":
        return _asked(str(config["input"]))
    digest = config.get("template_digest", "")
    keys = {each.name for each in dataclasses.fields(JudgeConfig)}  # a manifest keeps digests beside them
    values = {key: value for key, value in config.items() if key in keys}
    try:
        cfg = load.build_config(JudgeConfig, {**values, "output": uri}, uri)
    except RradError as error:
        return None, f"{error.problem} ({error.place})"
    if cfg.digests.get("template_digest", "") != digest:
        return None, f"the template {cfg.template} has been changed since"
    return cfg, ""


def _chosen(
    table: Table, count: int, by: By, split: str, query_ids: Sequence[str], source: random.Random
) -> list[Draw]:
    """Return the rows to show, each with the name of its part, the worst first where `by` says by what."""
    if query_ids:
        named = list(named_rows(table.uri, table.names, table.row, query_ids))
        if lacking := {*query_ids}.difference(row["query_id"] for _, row in named):
            problem = f"no query {', '.join(sorted(lacking))} there"
            raise RradError(table.uri, problem, "name queries of this table, as its column query_id has them")
        return _usable(table, named)
    size = count if by == "random" else POOL
    pool = _usable(table, drawn_rows(table.uri, table.names, table.row, size, source, split))
    if by == "random":
        return pool[:count]
    views = _views(table, pool, prompts=False)
    keys = {"status": "severity", "disagreement": "agreement", "qrels": "ndcg"}
    known = [(view[keys[by]], number) for number, view in enumerate(views) if view[keys[by]] is not None]
    return [pool[number] for _, number in sorted(known)[:count]]


def _usable(table: Table, draws: Iterable[Draw]) -> list[Draw]:
    """Return the rows that `label` would not set aside, and say which ones it would."""
    usable = []
    for name, row in draws:
        if reason := misfit(row):
            say(f"{table.uri}: query {row['query_id']} is not shown: {reason}")
        else:
            usable.append((name, row))
    return usable


def _verdict(row: Row, read: Any) -> Verdict:
    """Return the verdict that a row of labels holds, or that is made of the judge's answers."""
    if "targets" in row:
        return Verdict(row["targets"], row["missing"], row["confidence"], row["parse_status"])
    return teacher.verdict(row, read=read)


def _severity(statuses: Sequence[str]) -> int:
    """Return the index in `STATUSES` of the worst status."""
    return min((STATUSES.index(status.partition(":")[0]) for status in statuses), default=len(STATUSES) - 1)


def _views(table: Table, draws: Sequence[Draw], prompts: bool = True) -> list[dict[str, Any]]:
    """Return what the page shows of each row; the prompts take longest to make."""
    answers = dict(_answers(table, draws)) if table.row is Labels else {row["query_id"]: row for _, row in draws}
    read = source_reader(table.judged) if table.judged and tables.exists(table.judged) else source_reader(table.uri)
    texts_of, problem = _prompts(table) if prompts else (None, "")
    views = []
    for number, (_, row) in enumerate(draws, 1):
        view = _view(row, answers.get(row["query_id"]), read)
        texts = texts_of(answers[row["query_id"]]) if texts_of and row["query_id"] in answers else []
        views.append({**view, "number": number, "prompts": texts[: max(len(view["answers"]), 1)], "problem": problem})
    return views


def _answers(table: Table, draws: Sequence[Draw]) -> Iterator[Draw]:
    """Yield the judge's rows below rows of labels, where they are still there: `label` keeps the names of parts."""
    if not table.judged or not tables.exists(table.judged):
        return
    standing = set(tables.part_names(table.judged))
    for name in sorted({name for name, _ in draws} & standing):
        wanted = [row["query_id"] for part, row in draws if part == name]
        for _, row in named_rows(table.judged, [name], JudgeOutput, wanted):
            yield row["query_id"], row


def _prompts(table: Table) -> tuple[PromptTexts | None, str]:
    """Return what makes the prompts of a row again; or None, and why not."""
    if table.asked is None:
        return None, table.problem
    try:
        return PromptTexts(table.asked), ""
    except (RradError, ValueError, OSError) as error:
        return None, f"{table.asked.model} has no tokenizer here ({str(error).splitlines()[0]})"


def _view(row: Row, judged: Row | None, read: Any) -> dict[str, Any]:
    """Return a row as the page shows it: its documents, the best target first, and its answers.

    Labels may have fewer documents than `judged`, or others where that was made again."""
    verdict = _verdict(row, read)
    asked = judged["doc_ids"] if judged else []
    answers = _answer_views(judged, row["doc_ids"], read) if judged and judged["responses"] else []
    grades = dict(zip(row["qrel_ids"], row["qrel_grades"], strict=True))
    order = sorted(range(len(row["doc_ids"])), key=lambda index: -verdict.targets[index])
    scores = dict(zip(asked, judged["judge_scores"], strict=True)) if judged and judged["judge_scores"] else {}
    documents = [
        {
            "rank": rank,
            "first": index + 1,
            "id": row["doc_ids"][index],
            "text": row["texts"][index],
            "target": verdict.targets[index],
            "missing": verdict.missing[index],
            "confidence": verdict.confidence[index],
            "grade": grades.get(row["doc_ids"][index]),
            "score": scores.get(row["doc_ids"][index]),
            "reason": row["reasons"][index] if row["reasons"] else "",
            "ranks": [answer["ranks"][index] for answer in answers],
        }
        for rank, index in enumerate(order, 1)
    ]
    return {
        **{name: row[name] for name in ("query_id", "query", "split")},
        "status": STATUSES[_severity(verdict.statuses)],
        "severity": _severity(verdict.statuses),
        "agreement": repeat_agreement([answer["order_by"] for answer in answers if answer["kind"] != "rejected"]),
        "ndcg": metrics.untied_ndcg(row, verdict.targets) if any(grade > 0 for grade in grades.values()) else None,
        "relevant": [(doc_id, grade) for doc_id, grade in grades.items() if doc_id not in row["doc_ids"]],
        "counts": {name: judged[name] for name in ("truncated", "prompt_tokens", "generated_tokens")}
        if judged
        else {},
        "documents": documents,
        "answers": answers,
    }


def _answer_views(judged: Row, doc_ids: Sequence[str], read: Any) -> list[dict[str, Any]]:
    orders = zip(teacher.orders_of(judged, read), judged["responses"], judged["shown"], strict=True)
    return [_answer(order, text, shown, judged["doc_ids"], doc_ids) for order, text, shown in orders]


def _answer(
    parsed: ParsedOrder, text: str, shown: Sequence[int], asked: Sequence[str], doc_ids: Sequence[str]
) -> dict[str, Any]:
    """Return one answer with the order read in it. `shown`: the documents of the prompt, of those that were `asked`
    about. `ranks[i]` holds the rank of document i of `doc_ids`, None where it is left out or was not shown, and its
    position in the prompt, None where it was not shown."""
    ids = [asked[index] for index in shown]
    position = {doc_id: number for number, doc_id in enumerate(ids, 1)}
    rank = {ids[each]: number for number, each in enumerate(parsed.ranked, 1)}
    return {
        "text": text,
        "kind": parsed.kind,
        "why": parsed.rejection or ", ".join(parsed.repairs),
        "order": [(each + 1, ids[each]) for each in parsed.ranked],
        "missing": [(each + 1, ids[each]) for each in parsed.missing],
        "ranks": [(rank.get(doc_id), position.get(doc_id)) for doc_id in doc_ids],
        "order_by": candidate_ranks(parsed, shown, len(asked)),
    }
