"""Templates of prompts: the shipped ones, a user's own, and what is refused before anything is paid."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rrad_ray import tables
from rrad_ray.config import JudgeConfig, PromptConfig
from rrad_ray.config.template_files import DEFAULTS, SHIPPED, TEMPLATES, load_template, shipped_templates
from rrad_ray.config.templates import ExplainTemplate, LikelihoodTemplate, OrderTemplate
from rrad_ray.errors import RradError
from rrad_ray.labelling.answer_patterns import answer_reader, check_template
from rrad_ray.labelling.answers import parse_answer
from tests.commands import ROOT

LETTERS = st.text(alphabet="abcdefghij", min_size=1, max_size=8)
ORDER = load_template(OrderTemplate, "")
EXPLAIN = load_template(ExplainTemplate, "")
EVERY = [(task, name) for task in TEMPLATES for name in shipped_templates(task)]
IDENTIFIERS = (
    "[{number}]",
    "{number}",
    "문서 {number}",
    "{number}번",
    "第{number}篇",
    "Passage {number}",
    "doc_{number}",
)
OWN = """\
task: order
messages:
  - role: user
    content: |-
      Query: {query}

      {documents}

      Answer like {example}.
"""


def own(folder: Path, text: str, **options: str) -> PromptConfig:
    """A config with a template of one's own."""
    path = folder / "own.yaml"
    path.write_text(text, encoding="utf-8")
    return PromptConfig(**{"task": "order", "template": str(path), **options})  # type: ignore[arg-type]


# ---- the shipped ones ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "template"),
    [
        ({"language": "ko"}, "question-ko"),
        ({"language": "zh", "task": "order"}, "order-zh"),
        ({"language": "ja", "task": "explain"}, "explain-ja"),
        ({"language": "de"}, "question"),
        ({}, "question"),
        ({"language": "ko", "template": "search"}, "search"),
    ],
)
def test_a_template_that_is_not_named_is_in_the_language(options: dict[str, str], template: str) -> None:
    cfg = PromptConfig(**options)  # type: ignore[arg-type]
    assert cfg.prompt == load_template(TEMPLATES[cfg.task], template)


def test_the_words_of_the_first_templates_have_not_changed_by_a_byte() -> None:
    assert ORDER.chat("a {count} b", ["one\n two", "zwei", "셋"]) == [
        {"role": "system", "content": "You rank passages by their relevance to a search query."},
        {
            "role": "user",
            "content": "Search query: a {count} b\n\n[1] one two\n[2] zwei\n[3] 셋\n\nSearch query: a {count} b\n"
            "Rank the 3 passages above by relevance to the search query, the most relevant first. "
            "Leave out passages that are not relevant. Answer with identifiers only, like [2] > [1] > [3].",
        },
    ]
    assert EXPLAIN.chat("q", "one\n two", 2, 5) == [
        {"role": "system", "content": "You explain the decisions of a search engine, briefly and to the point."},
        {
            "role": "user",
            "content": "Search query: q\n\nDocument: one two\n\nAn expert has judged this document for the query: it "
            "was ranked 2 of 5 documents. Say in one sentence why, naming what the document has or lacks.",
        },
    ]
    assert "it was left out as not relevant. Say" in EXPLAIN.chat("q", "t", 0, 5)[1]["content"]
    pieces = {name: load_template(LikelihoodTemplate, name).pieces for name in ("question", "summary", "search")}
    assert pieces == {
        "question": ("Passage: ", "\nPlease write a question based on this passage.\nQuestion:", " "),
        "summary": ("Documentation:\n", "\n\nIn one sentence, this does the following:", " "),
        "search": ("Document: ", "\nA search query that this document answers:", " "),
    }


@given(st.lists(LETTERS, min_size=1, max_size=12, unique=True), LETTERS)
def test_listwise_shows_every_text_once_under_its_number(texts: list[str], query: str) -> None:
    messages = ORDER.chat(f"QUERY-{query}", [f"TEXT-{text}." for text in texts])
    assert [message["role"] for message in messages] == ["system", "user"]
    content = messages[1]["content"]
    for number, text in enumerate(texts, 1):
        assert content.count(f"TEXT-{text}.") == 1
        assert f"\n[{number}] TEXT-{text}.\n" in content
    assert content.count(f"Search query: QUERY-{query}\n") == 2


def test_a_text_of_several_lines_cannot_pass_for_two_passages() -> None:
    content = ORDER.chat("q", ["one\n[2] not a passage\r\n\tend", "two"])[1]["content"]
    lines = [line for line in content.splitlines() if re.match(r"\[\d", line)]
    assert lines == ["[1] one (2) not a passage end", "[2] two"]


@pytest.mark.parametrize("n", [1, 2, 3, 10])
def test_the_example_in_the_prompt_is_an_answer_that_parses_and_names_only_what_is_shown(n: int) -> None:
    content = ORDER.chat("q", ["text"] * n)[1]["content"]
    order = parse_answer(content.rpartition("like ")[2], n)
    assert order.status == "ok"
    assert len(order.ranked) == min(n, 3)


@pytest.mark.parametrize("task", DEFAULTS)
def test_every_task_that_asks_in_words_does_so_in_four_languages(task: str) -> None:
    names = shipped_templates(task)
    first = DEFAULTS[task]
    assert {first, *(f"{first}-{language}" for language in ("ko", "zh", "ja"))} <= set(names)
    scripts = {"ko": "[가-힣]", "zh": "[一-鿿]", "ja": "[ぁ-ん]"}
    for name in names:
        text = (SHIPPED / f"{name}.yaml").read_text(encoding="utf-8")
        assert re.search(scripts.get(name.partition("-")[2], "[A-Za-z]"), text), name


@pytest.mark.parametrize(("task", "name"), EVERY)
def test_answers_as_a_shipped_template_asks_for_them_are_read(task: str, name: str) -> None:
    cfg = PromptConfig(task=task, template=name)  # type: ignore[arg-type]
    check_template(cfg)
    assert re.fullmatch("[0-9a-f]{16}", cfg.digests["template_digest"])
    if task == "order":
        assert answer_reader(cfg.answer_regex)(cfg.prompt.written([2, 0]), 3).ranked == (2, 0)
        assert re.fullmatch(cfg.prompt.grammar(3), cfg.prompt.written([2, 0]))


def test_rankgpts_conversation_hands_the_documents_over_one_by_one() -> None:
    chat = load_template(OrderTemplate, "rankgpt").chat("q", ["one", "two"])
    roles = [message["role"] for message in chat]
    assert roles == ["system", "user", "assistant", "user", "assistant", "user", "assistant", "user"]
    assert [message["content"] for message in chat[3:7:2]] == ["[1] one", "[2] two"]
    assert "[2]" in chat[6]["content"]


def test_the_shipped_templates_are_in_the_wheel() -> None:
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["rrad_ray"]
    packed = {path for pattern in patterns for path in (ROOT / "rrad_ray").glob(pattern)}
    assert set(SHIPPED.glob("*.yaml")) <= packed


# ---- a user's own -------------------------------------------------------------------------------------------------


def test_a_template_of_ones_own_says_how_documents_identifiers_and_answers_are_written(tmp_path: Path) -> None:
    text = OWN + "identifier: 문서{number}\ndocument: '<{id}> {text}'\njoiner: ' → '\nanswer: '순위: {order}'\n"
    template = own(tmp_path, text).prompt
    [message] = template.chat("질의", ["하나", "둘"])
    assert message["content"] == "Query: 질의\n\n<문서1> 하나\n<문서2> 둘\n\nAnswer like 순위: 문서2 → 문서1."
    assert re.fullmatch(template.grammar(3), "순위: 문서3 → 문서1")
    assert not re.fullmatch(template.grammar(3), "순위: 문서4")


def test_identifiers_may_be_letters_which_go_on_after_z(tmp_path: Path) -> None:
    template = own(tmp_path, OWN + "identifier: '[{letter}]'\nregex: '\\[(?P<id>[A-Z]+)\\]'\n").prompt
    assert template.written([0, 25, 26, 701, 702]) == "[A] > [Z] > [AA] > [ZZ] > [AAA]"
    assert answer_reader(template.regex)("[C] > [AA]", 30).ranked == (2, 26)


def test_braces_of_queries_documents_and_json_stay_as_they_are(tmp_path: Path) -> None:
    text = (
        OWN.replace("Answer like", 'Answer {"ranking": [2, 1]}, not {{query}}, like') + "answer: '{\"r\": {order}}'\n"
    )
    content = own(tmp_path, text).prompt.chat("{documents}", ["{query}"])[0]["content"]
    assert content == (
        'Query: {documents}\n\n[1] {query}\n\nAnswer {"ranking": [2, 1]}, not {query}, like {"r": [1]}.'
    )


def test_a_template_is_read_from_an_object_store(s3_uri: str) -> None:
    tables.write_text(f"{s3_uri}/own.yaml", OWN)
    assert PromptConfig(task="order", template=f"{s3_uri}/own.yaml").prompt.chat("q", ["t"])


@pytest.mark.parametrize("text", ["task: likelihood\nprompt: |\n  文档：{document}\n  问题：{query}\n"])
def test_a_likelihood_prompt_needs_no_space_before_its_query(tmp_path: Path, text: str) -> None:
    assert own(tmp_path, text, task="likelihood").prompt.pieces == ("文档：", "\n问题：", "")


def test_the_example_of_the_documentation_is_a_template_whose_answers_are_read(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "labelling.md").read_text(encoding="utf-8")
    [example] = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    cfg = own(tmp_path, example)
    check_template(cfg)
    assert cfg.prompt.chat("신발", ["흰 운동화"])[1]["content"].startswith("검색어: 신발\n\n[1] 상품: 흰 운동화\n\n")
    parsed = answer_reader(cfg.answer_regex)("[3]은 신발이 아닙니다.\n최종 순위: [2] > [1]", 3)
    assert (parsed.ranked, parsed.status) == ((1, 0), "repaired: other identifiers set aside")


# ---- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("was", "now", "line", "problem"),
    [
        ("{documents}", "{docments}", 7, r"no placeholder {docments} \(did you mean {documents}\?\); known here:"),
        ("Query:", "{답}", 5, "no placeholder {답}"),
        ("{documents}", "{documents} {documents}", 3, "they show the documents 2 times"),
        ("{documents}", "none", 3, "they show the documents 0 times"),
        ("Query: {query}", "", 3, "they do not show the query; write {query}"),
        ("role: user", "role: usr", 3, "'usr': choose one of system, user, assistant"),
        ("role: user", "role: assistant", 3, "they do not end with one of the user's"),
        ("    content", "    contents", 4, r"'messages.0.contents' \(did you mean: 'messages.0.content'\)"),
        ("task: order", "task: orders", 1, "task='orders'"),
        ("task: order", "task: explain", 1, "a template for task=explain, and the config has task=order"),
        ("task: order", "task: [", 3, "not YAML"),
        (OWN, "- a", 1, "not a mapping"),
        (OWN, "task: order", 1, "no value for messages"),
        ("task: order", "task: order\nidentifer: x", 2, r"unknown key 'identifer' \(did you mean: 'identifier'\)"),
        ("task: order", "task: order\nidentifier: '[]'", 2, r"'\[\]' is no identifier; write {number} or {letter}"),
        ("task: order", "task: order\ndocument: '{text}'", 2, "it holds {id} 0 times"),
        ("task: order", "task: order\nanswer: ranking", 2, "it holds {order} 0 times"),
        ("task: order", "task: order\nregex: '(?P<id>'", 2, "no regular expression"),
        ("task: order", "task: order\nregex: '(?P<id>1)" + "(" * 3000 + ")" * 3000 + "'", 2, "nested too deeply"),
        ("task: order", 'task: order\njoiner: " \\ud83d "', 2, r"half a character: '\\ud83d'"),
        ("task: order", "task: order\nregex: " + "[" * 5000, 0, "nested too deeply"),
        ("task: order", "task: order\nregex: '(1)'", 2, "not one of the groups `id` and `order`"),
        ("task: order", "task: order\nregex: '(1+)+(?P<id>x)'", 2, "it takes more than 0.1 s to read"),
    ],
)  # fmt: skip
def test_a_wrong_template_is_named_with_its_line_before_anything_is_paid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, was: str, now: str, line: int, problem: str
) -> None:
    monkeypatch.setattr("rrad_ray.config.templates.PROBE_S", 0.1)
    with pytest.raises(RradError, match=problem) as caught:
        own(tmp_path, OWN.replace(was, now))
    assert caught.value.place == f"{tmp_path}/own.yaml" + (f":{line}" if line else "")
    assert caught.value.stage == "config"
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("task", "text", "problem"),
    [
        ("likelihood", "prompt: '{document} {query}?'", "it does not end with {query}"),
        ("likelihood", "prompt: '{query} {document}'", "it does not end with {query}"),
        ("likelihood", "prompt: '{document}'", "it holds {query} 0 times"),
        (
            "explain",
            "messages: [{role: user, content: '{query} {document}'}]\nranked: '{rank}'\nleft_out: no",
            "verdict",
        ),
        (
            "explain",
            "messages: [{role: user, content: '{query} {document} {verdict}'}]\nranked: x\nleft_out: no",
            "rank",
        ),
    ],
)
def test_a_prompt_without_what_it_is_about_is_refused(tmp_path: Path, task: str, text: str, problem: str) -> None:
    with pytest.raises(RradError, match=problem):
        own(tmp_path, f"task: {task}\n{text}\n", task=task)


def test_an_unknown_name_lists_the_shipped_templates_of_the_task() -> None:
    with pytest.raises(
        RradError, match=r"no shipped template 'order-kr' \(did you mean: 'order-ko'\); choose one of "
    ):
        PromptConfig(task="order", template="order-kr")
    with pytest.raises(
        RradError, match=r"search\.yaml:1: a template for task=likelihood, and the config has task=ord"
    ):
        PromptConfig(task="order", template="search")
    with pytest.raises(RradError, match=r"nowhere\.yaml: no such file"):
        PromptConfig(task="order", template="nowhere.yaml")
    with pytest.raises(RradError, match="no shipped template 'nothing'; choose one of bge-reranker-gemma, grade, "):
        PromptConfig(task="score", template="nothing")


def test_a_form_of_answer_that_would_not_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        RradError, match=r"the built-in parser reads nothing .* as asked for: '\[B\] > \[A\] > \[C\]'"
    ):
        check_template(own(tmp_path, OWN + "identifier: '[{letter}]'\n"))
    with pytest.raises(RradError, match=r"the template's regex .* reads nothing"):
        check_template(own(tmp_path, OWN + "regex: '<(?P<id>\\d+)>'\n"))


def orders(n: int) -> list[list[int]]:
    """Orders of some, of one and of all of `n` documents."""
    some = [[0], [n - 1], [0, n - 1], [n - 1, 0], [n - 2, n - 1], [1, 0, 2], [0, 2], [*range(n)][::-1], [*range(n)]]
    return [order for order in some if {*order} <= {*range(n)} and len({*order}) == len(order)]


@given(
    identifier=st.sampled_from([*IDENTIFIERS, "D{number}", "{number}.", "[P{number}]"]),
    joiner=st.sampled_from([" > ", ", ", "-", " ~ ", " … ", " .. ", " to ", "~", " < ", "\n", " 그리고 ", "."]),
    answer=st.sampled_from(["{order}", "최종 순위: {order}", "Ranking of 12 passages: {order}", "Top 5: {order}"]),
)
@settings(max_examples=40, deadline=None)
def test_a_form_of_answer_that_passes_is_read_back_as_what_it_says_whatever_it_says(
    identifier: str, joiner: str, answer: str
) -> None:
    form = dataclasses.replace(ORDER, identifier=identifier, joiner=joiner, answer=answer)
    try:
        check_template(SimpleNamespace(task="order", prompt=form, template="own"))  # type: ignore[arg-type]
    except RradError:
        return
    for n in (1, 2, 3, 4, 5, 12, 30):
        for order in orders(n):
            assert parse_answer(form.written(order), n).ranked == tuple(order), form.written(order)


@pytest.mark.parametrize("identifier", IDENTIFIERS)
def test_identifiers_as_people_name_documents_pass(tmp_path: Path, identifier: str) -> None:
    cfg = own(tmp_path, OWN + f"identifier: '{identifier}'\n")
    check_template(cfg)
    assert parse_answer(cfg.prompt.written([1]), 3).ranked == (1,), "an answer that names a single document"


@pytest.mark.parametrize(
    ("lines", "line", "answer"),
    [
        ("joiner: ' ~ '", 10, "reads 1 > 2 > 3 from .* 3 documents as asked for: '\\[1\\] ~ \\[3\\]'"),
        ("joiner: '-'", 10, "reads 1 > 2 > 3 "),
        ("joiner: ' … '", 10, "reads 1 > 2 > 3 "),
        ("joiner: ' .. '", 10, "reads 1 > 2 > 3 "),
        ("joiner: ' < '", 10, "reads 3 > 1 > 2 "),
        ("identifier: '{number}'\nanswer: 'Ranking of 12 passages: {order}'", 11, "reads 12 > 2 > 1 .* 12 documents"),
        ("answer: 'Ranking of 40 passages: {order}'\njoiner: ', '\nidentifier: '{number}'", 10, "over 40 documents"),
        ("document: '{id} {text}'\nidentifier: 'D{number}'", 11, "reads nothing .* as asked for: 'D2 > "),
        ("joiner: ', '\nregex: '(?P<id>[0-9])'", 11, "reads nothing .counts from 0. .* over 12 documents"),
    ],
)  # fmt: skip
def test_a_form_of_answer_that_says_something_else_to_the_reader_is_refused_at_its_line(
    tmp_path: Path, lines: str, line: int, answer: str
) -> None:
    with pytest.raises(RradError, match=answer) as caught:
        check_template(own(tmp_path, f"{OWN}{lines}\n"))
    assert caught.value.place == f"{tmp_path}/own.yaml:{line}"


# ---- what identifies a run ----------------------------------------------------------------------------------------


def test_another_text_of_a_template_is_another_output_and_a_comment_is_not(tmp_path: Path) -> None:
    first = own(tmp_path, OWN).digests
    assert own(tmp_path, "# a remark\n" + OWN).digests == first
    assert own(tmp_path, OWN.replace("Query", "Question")).digests != first
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x").write_text("x")
    paths = {"input": f"{tmp_path}/in", "output": f"{tmp_path}/out"}

    def claimed(text: str) -> tables.Claim:
        tables_stage = tables.stage("judge", None)(lambda cfg, out: out.commit() and None)
        cfg = JudgeConfig(task="order", template=own(tmp_path, text).template, **paths)
        claim = tables_stage.claim(cfg)
        tables_stage(cfg) if claim.state == "new" else None
        return claim

    assert claimed(OWN).state == "new"
    assert claimed(OWN).state == "finished"
    assert tables.read_manifest(paths["output"]).config["template_digest"] == first["template_digest"]
    refused = claimed(OWN.replace("Query", "Question"))
    assert refused.state == "refused"
    assert "template_digest=" in refused.reason
