"""Templates of prompts: a class for each task of `judge` that asks in words, checked as configs are.

Whoever holds one asks it for the messages of a chat, or for the pieces of a likelihood prompt.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import hashlib
import json
import math
import operator
import re
from collections.abc import Sequence
from typing import Literal, NoReturn

import regex as regular
from pydantic.dataclasses import dataclass

from rrad_ray import prompts
from rrad_ray.config.base import CHECKED

PROBE_S = 2.0  # a regular expression that reads a text of some thousand characters longer than that never ends
# Texts over which a careless regular expression backtracks: one thing again and again, and an end that fits nothing.
PROBES = tuple(
    f"{text * (3000 // len(text))}!" for text in ("1", " ", "a", "가", "[1] > ", "1, ", "1 ", "문서 1\n", ">")
)


class TemplateProblem(ValueError):
    """A rule that a template breaks: at which key (`path`), at which words in its text, and what to do."""

    def __init__(self, path: Sequence[int | str], words: str, problem: str, remedy: str) -> None:
        self.path, self.words, self.problem, self.remedy = tuple(path), words, problem, remedy
        super().__init__(f"{'.'.join(map(str, path))}: {problem}; {remedy}")


@dataclass(frozen=True, config=CHECKED)
class ChatMessage:
    """One message of a chat. `each`: for every document; such messages stand together and are repeated together."""

    role: Literal["system", "user", "assistant"]
    content: str
    each: bool = False


@dataclass(frozen=True, config=CHECKED)
class PromptTemplate:
    """The parts that all templates have: the content decides their digest, not the name or the comments."""

    task: str

    @property
    def digest(self) -> str:
        """Return 16 hexadecimal digits of the SHA-256 of the content."""
        content = json.dumps(dataclasses.asdict(self), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(content.encode()).hexdigest()[:16]


@dataclass(frozen=True, config=CHECKED)
class OrderTemplate(PromptTemplate):
    """A listwise prompt: its messages, how documents and identifiers are written, and how the answer is.

    Messages may hold {query}, {count}, {example} and {documents}; those for each document {document} and {id} instead
    of the last. Documents and query stand on one line each, without identifiers of their own: none can pass for two.
    """

    task: Literal["order"]
    messages: tuple[ChatMessage, ...]
    identifier: str = "[{number}]"
    document: str = "{id} {text}"
    separator: str = "\n"  # between documents
    joiner: str = " > "  # between identifiers of an answer
    answer: str = "{order}"
    regex: str = ""  # reads an answer; empty: the parser of `labelling.answers` does

    def __post_init__(self) -> None:
        each = [number for number, message in enumerate(self.messages) if message.each]
        known = ("query", "count", "example")
        for number, message in enumerate(self.messages):
            more = ("document", "id") if message.each else ("documents",)
            _check_names(("messages", number, "content"), message.content, (*known, *more))
        _check_chat(self.messages)
        if each and each != list(range(each[0], each[-1] + 1)):
            _refuse(("messages", each[-1]), "messages for each document stand apart", "put them one after another")
        names = [name for message in self.messages for name in prompts.placeholders(message.content)]
        shows = names.count("documents") + names.count("document")
        if shows != 1:
            want = "write {documents} in one message, or {document} in one with `each: true`"
            _refuse(("messages",), f"they show the documents {shows} times", want)
        _check_once(("document",), self.document, ("id", "text"))
        _check_once(("answer",), self.answer, ("order",))
        _check_names(("identifier",), self.identifier, ("number", "letter"))
        if len(prompts.placeholders(self.identifier)) != 1:
            _refuse(("identifier",), f"{self.identifier!r} is no identifier", "write {number} or {letter}, once")
        if self.regex:
            _check_regex(self.regex)

    def chat(self, query: str, shown: Sequence[str]) -> list[dict[str, str]]:
        """Return the messages that ask for an order of these texts. Identifiers count from 1, in the order shown."""
        names = [prompts.identifier(self.identifier, number) for number in range(1, len(shown) + 1)]
        lines = [
            prompts.fill(self.document, {"id": name, "text": self._line(text)})
            for name, text in zip(names, shown, strict=True)
        ]
        example = self.written([index for index in (1, 0, 2) if index < len(shown)])
        whole = {"query": self._line(query), "count": str(len(shown)), "example": example}
        together = whole | {"documents": self.separator.join(lines)}
        alone = [whole | {"id": name, "document": line} for name, line in zip(names, lines, strict=True)]
        each, chat = [message for message in self.messages if message.each], list[dict[str, str]]()
        for message in self.messages:
            if not message.each:
                chat.append({"role": message.role, "content": prompts.fill(message.content, together)})
            elif message is each[0]:
                chat += [
                    {"role": one.role, "content": prompts.fill(one.content, values)}
                    for values in alone
                    for one in each
                ]
        return chat

    def _line(self, text: str) -> str:
        """Return a text on one line, in which nothing passes for an identifier."""
        return prompts.unclaimed(" ".join(text.split()), self.identifier)

    def written(self, order: Sequence[int]) -> str:
        """Write 0-based indices as an answer."""
        chain = self.joiner.join(prompts.identifier(self.identifier, index + 1) for index in order)
        return prompts.fill(self.answer, {"order": chain})

    def grammar(self, n: int) -> str:
        """Return the grammar of an answer over `n` documents (see `prompts.permutation_regex`)."""
        return prompts.permutation_regex(n, self.identifier, self.joiner, self.answer)


@dataclass(frozen=True, config=CHECKED)
class ExplainTemplate(PromptTemplate):
    """A prompt for the reason of one document's rank: its messages, and the two verdicts that stand at {verdict}.

    Messages may hold {query}, {document} and {verdict}.
    """

    task: Literal["explain"]
    messages: tuple[ChatMessage, ...]
    ranked: str
    left_out: str

    def __post_init__(self) -> None:
        _check_single(self.messages, ("query", "document", "verdict"))
        names = [name for message in self.messages for name in prompts.placeholders(message.content)]
        if "verdict" not in names:
            _refuse(("messages",), "they hold {verdict} 0 times", "write {verdict} once")
        _check_names(("ranked",), self.ranked, ("rank", "count"))
        if "rank" not in prompts.placeholders(self.ranked):
            _refuse(("ranked",), "it says no {rank}", "write {rank} where the document's rank is to stand")
        _check_names(("left_out",), self.left_out, ("count",))

    def chat(self, query: str, text: str, rank: int, n: int) -> list[dict[str, str]]:
        """Return the messages that ask why a document has its rank of `n` (from 1; 0: it was left out)."""
        verdict = prompts.fill(self.ranked if rank else self.left_out, {"rank": str(rank), "count": str(n)})
        values = {"query": " ".join(query.split()), "document": " ".join(text.split()), "verdict": verdict}
        return [{"role": each.role, "content": prompts.fill(each.content, values)} for each in self.messages]


@dataclass(frozen=True, config=CHECKED)
class LikelihoodTemplate(PromptTemplate):
    """A text with {document} that ends with {query}, whose tokens are scored."""

    task: Literal["likelihood"]
    prompt: str

    def __post_init__(self) -> None:
        _check_once(("prompt",), self.prompt, ("document", "query"))
        document, query = self._shown
        if document["name"] != "document" or self.prompt[query.end() :].strip():
            remedy = "put {document} before it, and nothing behind it: the query's tokens are what is scored"
            _refuse(("prompt",), "it does not end with {query}", remedy)

    @property
    def _shown(self) -> list[re.Match[str]]:
        return [match for match in prompts.PLACEHOLDER.finditer(self.prompt) if match["name"]]

    @property
    def pieces(self) -> tuple[str, str, str]:
        """Return the text before the document, that between document and query, and the white space before the query,
        which tokenizers join to its first word."""
        document, query = self._shown
        between = self.prompt[document.end() : query.start()]
        kept = between.rstrip()
        return prompts.fill(self.prompt[: document.start()], {}), prompts.fill(kept, {}), between[len(kept) :]


@dataclass(frozen=True, config=CHECKED)
class ScoreTemplate(PromptTemplate):
    """A prompt about one document, which a classification head scores.

    `messages` of a chat, or `prompt`, a text with the model's own control tokens; both hold {query} and {document}.
    """

    task: Literal["score", "grade"]
    messages: tuple[ChatMessage, ...] = ()
    prompt: str = ""

    def __post_init__(self) -> None:
        if bool(self.messages) == bool(self.prompt):
            _refuse(("messages",), "it wants `messages` or `prompt`, one of them", "write a chat, or a text as it is")
        if self.messages:
            _check_single(self.messages, ("query", "document"))
        else:
            _check_once(("prompt",), self.prompt, ("document", "query"))

    def chat(self, query: str, text: str) -> list[dict[str, str]] | str:
        """Return the messages that ask about a document, or the whole text of the prompt."""
        query = " ".join(query.split())
        if self.prompt:
            return prompts.fill(self.prompt, {"query": query, "document": text})
        values = {"query": query, "document": " ".join(text.split())}
        return [{"role": each.role, "content": prompts.fill(each.content, values)} for each in self.messages]


@dataclass(frozen=True, config=CHECKED, kw_only=True)
class GradeTemplate(ScoreTemplate):
    """A prompt about one document that one token answers: a label, and the grade that it stands for."""

    task: Literal["grade"]
    labels: dict[str, float]
    score: Literal["expected", "log_odds", "logit"] = "expected"

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(set(self.labels.values())) < 2 and self.score != "logit":
            _refuse(("labels",), "they tell no grade from another", 'write at least two, as in {"yes": 1, "no": 0}')
        if len({label.strip() for label in self.labels}) < len(self.labels):
            _refuse(("labels",), "two of them differ in white space alone", "keep one of them")
        want = {"expected": len(self.labels), "log_odds": 2, "logit": 1}[self.score]
        if len(self.labels) != want or not self.labels:
            _refuse(("labels",), f"{len(self.labels)} labels for score={self.score}", f"write {want}")

    def value(self, logits: Sequence[float]) -> float:
        """Return a document's score from the logits, or log-probabilities, of the labels' tokens.

        `expected`: the mean of the grades, weighed by the probabilities of the labels among themselves (Zhuang et
        al., 2024). `log_odds`: the higher grade's logit less the lower one's. `logit`: the logit itself.
        """
        grades = list(self.labels.values())
        if self.score == "logit":
            return logits[0]
        if self.score == "log_odds":
            low, high = sorted(range(2), key=grades.__getitem__)
            return logits[high] - logits[low]
        weights = [math.exp(logit - max(logits)) for logit in logits]
        return math.fsum(map(operator.mul, weights, grades)) / math.fsum(weights)


def _refuse(path: Sequence[int | str], problem: str, remedy: str, words: str = "") -> NoReturn:
    raise TemplateProblem(path, words, problem, remedy)


def _check_names(path: Sequence[int | str], text: str, known: Sequence[str]) -> None:
    """Refuse a placeholder that is not known here."""
    for name in prompts.placeholders(text):
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" (did you mean {{{near[0]}}}?)" if near else ""
            listing = ", ".join(f"{{{each}}}" for each in known) or "none"
            remedy = f"known here: {listing}; {{{{{name}}}}} writes the braces themselves"
            _refuse(path, f"no placeholder {{{name}}}{hint}", remedy, name)


def _check_once(path: Sequence[int | str], text: str, names: Sequence[str]) -> None:
    """Refuse a text that does not hold each of these placeholders once, and no other."""
    _check_names(path, text, names)
    for name in names:
        count = prompts.placeholders(text).count(name)
        if count != 1:
            _refuse(path, f"it holds {{{name}}} {count} times", f"write {{{name}}} once")


def _check_single(messages: Sequence[ChatMessage], known: Sequence[str]) -> None:
    """Refuse messages that do not show one document, once."""
    for number, message in enumerate(messages):
        _check_names(("messages", number, "content"), message.content, known)
        if message.each:
            _refuse(("messages", number), "one document is shown", "leave `each` out")
    _check_chat(messages)
    count = [name for message in messages for name in prompts.placeholders(message.content)].count("document")
    if count != 1:
        _refuse(("messages",), f"they hold {{document}} {count} times", "write {document} once")


def _check_chat(messages: Sequence[ChatMessage]) -> None:
    """Refuse messages that chat templates do not take, or that do not show the query."""
    if not messages or messages[-1].role != "user" or messages[-1].each:
        _refuse(
            ("messages",), "they do not end with one of the user's", "let a `role: user` message ask, as the last"
        )
    for number, message in enumerate(messages):
        if message.role == "system" and number:
            _refuse(("messages", number), "a system message that is not the first", "put it first, or leave it out")
    if not any("query" in prompts.placeholders(message.content) for message in messages):
        _refuse(("messages",), "they do not show the query", "write {query} where it is to stand")


@functools.cache
def _check_regex(pattern: str) -> None:
    """Refuse a regular expression that does not compile, reads no group of ours, or may take for ever."""
    try:
        compiled = regular.compile(pattern)
    except regular.error as error:
        _refuse(("regex",), f"no regular expression: {error}", "mend it; in YAML, put it in single quotes")
    except RecursionError:
        _refuse(("regex",), "its brackets are nested too deeply", "take out brackets that group nothing")
    if len({"id", "order"} & set(compiled.groupindex)) != 1:
        want = (
            "name a group (?P<id>...), which every match reads a document from, or (?P<order>...), the answer's part"
        )
        _refuse(("regex",), "it has not one of the groups `id` and `order`", want)
    for probe in PROBES:
        try:
            for _ in compiled.finditer(probe, timeout=PROBE_S):
                pass
        except TimeoutError:
            problem = f"it takes more than {PROBE_S:g} s to read {len(probe):,} characters ({probe[:12]!r}...)"
            _refuse(
                ("regex",),
                problem,
                "let no text be read in two ways, as by (a|a)+ or (.*)*: take (?>...) or possessive ++",
            )
