"""The prompts about a query: all prompts of a row, planned up front and independent of each other's answers."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, cast

from rrad_ray import prompts
from rrad_ray.config import PromptConfig
from rrad_ray.config.templates import OrderTemplate
from rrad_ray.control_tokens import ControlTokens, spaced
from rrad_ray.errors import InvalidInput
from rrad_ray.labelling import teacher
from rrad_ray.labelling.answer_patterns import AnswerReader
from rrad_ray.labelling.answers import parse_answer
from rrad_ray.labelling.chat_template import ChatTemplate
from rrad_ray.labelling.label_tokens import identifiers, label_tokens
from rrad_ray.labelling.prompt_calls import Prompt, joined_chunks
from rrad_ray.labelling.simulated_answers import echoed_answer, simulated_answer
from rrad_ray.languages.scripts import first_words
from rrad_ray.rankers.chunker import Chunker
from rrad_ray.rows import Row

ENDING = 4  # tokens for the end of an answer, and for what stands before it
IDENTIFIER_ROOM = 8  # the room for an answer's first token and for the pieces of an identifier before it
ABOUT_ONE = ("grade", "score")  # tasks whose words are about one document, and whose answer is a number
AS_IT_IS = {"use_activation": False}  # the score of a classification head

Chat = list[dict[str, str]] | str  # messages, or the whole text of a prompt

PROBE: Row = {  # a row that every chat template is tried with before anything is asked
    **{"query_id": "", "query": "query", "split": "train"},
    **{"doc_ids": ["1", "2"], "texts": ["one", "two"]},
}


def shown(row: Row, cfg: PromptConfig) -> list[list[int]]:
    """Return the orders in which `order` shows a query's documents, one for each call; planned by seed and query.

    A single document is not shown: there is nothing to order.
    """
    count = len(row["doc_ids"])
    if cfg.task != "order" or count < 2:
        return []
    if cfg.window or not cfg.shuffle:
        return [list(range(count))]
    source = random.Random(f"{cfg.seed}:{row['query_id']}")
    if not cfg.block or count <= cfg.block:
        return prompts.orders(count, cfg.repeats, source.getrandbits(32))
    names = source.sample(range(count), count)
    design = prompts.block_design(count, cfg.block, cfg.repeats)
    return [[names[item] for item in source.sample(block, len(block))] for block in design]


def slots(row: Row, cfg: PromptConfig, read: AnswerReader = parse_answer) -> int:
    """Return the number of prompts of a row. `read`: how answers that the row has are read, for `explain`."""
    if not row["doc_ids"]:
        return 0
    if cfg.task == "order":
        return int(cfg.calls(len(row["doc_ids"]))) if len(row["doc_ids"]) > 1 else 0
    if cfg.task == "explain" and (row["split"] in ("dev", "test") or teacher.verdict(row, read=read).rejected):
        return 0  # a reason is a training target, and without a verdict there is nothing to give one for
    return len(row["doc_ids"])


def answer_tokens(cfg: PromptConfig, tokenizer: Any, count: int) -> int:
    """Return the tokens that an answer about `count` documents may have. An order of all of them fits: those that a
    cut one does not come to would be taken for left out."""
    most = cfg.max_tokens
    if cfg.task == "order" and count:
        most = max(most, order_tokens(tokenizer, cfg.prompt, count) + ENDING)
    return cfg.thinking_tokens + most


@lru_cache(1000)  # of the same few orders in each prompt
def order_tokens(tokenizer: Any, template: OrderTemplate, count: int) -> int:
    """Return the tokens of an answer that names each of `count` documents, without its end."""
    return len(tokenizer(template.written(range(count)), add_special_tokens=False)["input_ids"])


def _room_kept(cfg: PromptConfig, tokenizer: Any, count: int) -> int:
    """Return the tokens that a prompt about `count` documents leaves to its answer."""
    if cfg.task in ABOUT_ONE:
        return int(cfg.task == "grade")
    return IDENTIFIER_ROOM if cfg.reads_logits else answer_tokens(cfg, tokenizer, count)


class Planner:
    """A row to its prompts, `slots(row, cfg)` of them, for `cfg.engine`.

    For vLLM a prompt is tokenized here, so that one too long never reaches the engine: documents are cut, the longest
    first, until it fits. `start`: the first token that `likelihood` scores. `truncated`: how many documents were cut
    below `doc_tokens`. A prompt that cannot be asked carries the reason, which Ray's engine stage passes through.
    """

    def __init__(self, cfg: PromptConfig, model: str, read: AnswerReader = parse_answer) -> None:
        """`read`: as in `slots`. Raises `ValueError` as `loading.load_tokenizer` and `ChatTemplate` do."""
        self.cfg, self.read = cfg, read
        self.guarded: Callable[[str], str] = spaced  # makes text of the control tokens in a query or a document
        self.chunker = Chunker(None, cfg.chunks)
        if cfg.engine != "vllm":
            return
        from rrad_ray.rankers import loading

        shapes = loading.without_weights(model)
        self.tokenizer = loading.load_tokenizer(model, shapes)
        self.chunker = Chunker(self.tokenizer, cfg.chunks)
        self.control = ControlTokens(self.tokenizer)
        self.guarded = self.control.guarded
        self.longest = loading.usable_length(self.tokenizer, shapes)
        self.limit = int(cfg.engine_kwargs.get("max_model_len") or self.longest)
        if cfg.task == "likelihood":
            generated = 0 if cfg.likelihood_by == "pooler" else 1
            options = (cfg.prompt.pieces, cfg.doc_tokens, cfg.query_tokens, self.limit - generated)
            self.likelihood = prompts.LikelihoodPlan(self.tokenizer, *options)
        elif cfg.prompt:
            if cfg.task not in ABOUT_ONE or cfg.prompt.messages:
                self.chat_template = ChatTemplate(self.tokenizer, cfg.chat_template_kwargs)
            for chat in self._conversations(PROBE, first_words):
                self._ids(chat)
        if cfg.task == "grade":
            self.label_ids = label_tokens(self.tokenizer, cfg.prompt.labels)

    def __call__(self, row: Row) -> list[Prompt]:
        count = slots(row, self.cfg, self.read)
        if not count:
            return []
        sizes = [len(order) for order in shown(row, self.cfg)] or [len(row["doc_ids"])] * count
        prompts_of = zip(sizes, self._prompts(row, count), strict=True)
        return [cast(Prompt, {"documents": size, "calls": count, **prompt}) for size, prompt in prompts_of]

    def _prompts(self, row: Row, count: int) -> list[Prompt]:
        if not self.cfg.chunks.tokens:
            return self._planned(row, count)
        split = self.chunker(row["texts"])
        return joined_chunks(self._planned({**row, "texts": split.texts}, len(split.texts)), split)

    def _planned(self, row: Row, count: int) -> list[Prompt]:
        cfg = self.cfg
        if cfg.engine == "echo":
            return [_prompt(answer=echoed_answer(row, slot, cfg)) for slot in range(count)]
        if cfg.engine == "simulated":
            orders = shown(row, cfg) or [list(range(len(row["doc_ids"])))] * count
            return [_prompt(answer=simulated_answer(row, slot, cfg, order)) for slot, order in enumerate(orders)]
        if cfg.engine == "openai":
            if cfg.window:
                texts = [self.guarded(first_words(text, cfg.doc_tokens)) for text in row["texts"]]
                return [_prompt(**_windowed(self.guarded(row["query"]), texts))]
            return [_prompt(messages=json.dumps(messages)) for messages in self.chats(row)]
        try:
            if cfg.task == "likelihood":
                return [_scored(span, cfg.likelihood_by) for span in self.likelihood(row["query"], row["texts"])]
            if cfg.task == "score" and not cfg.prompt:
                return [self._pair(row["query"], text) for text in row["texts"]]
            if cfg.window:
                return [self._sliding(row)]
            return self._scored_chats(row) if cfg.task in ABOUT_ONE else self._tokenized_chats(row)
        except prompts.TooLong as error:
            return [_prompt(too_long=error.detail)] * count

    def _pair(self, query: str, text: str) -> Prompt:
        """Return a pair as the teacher's own tokenizer joins it, cut as in its training."""
        limit = min(self.limit, self.longest)
        ids = self.tokenizer(query, text, split_special_tokens=True)["input_ids"]
        cut = len(ids) > limit
        if cut:
            options = {"truncation": True, "max_length": limit, "split_special_tokens": True}
            ids = self.tokenizer(query, text, **options)["input_ids"]
        return _prompt(ids, truncated=cut, pooling_params=AS_IT_IS)

    def _tokenized_chats(self, row: Row) -> list[Prompt]:
        """Return the chats of `order` and `explain`, whose answer is text."""
        docs = self._tokenized(row["texts"])
        chats, cut = self._fitted(row, docs)
        shown_docs = [[docs[index] for index in order] for order in shown(row, self.cfg)] or [[doc] for doc in docs]
        if self.cfg.answer == "first_token":
            before, names = self._identifiers(len(docs))
            chats = [[*ids, *before] for ids in chats]
            samplings = [_looking_at(names)] * len(chats)
        else:
            samplings = [self._sampling(len(each)) for each in shown_docs]
        return [
            _prompt(ids, start=len(ids), truncated=_lost(each, cut, self.cfg.doc_tokens), **sampling)
            for ids, each, sampling in zip(chats, shown_docs, samplings, strict=True)
        ]

    def _scored_chats(self, row: Row) -> list[Prompt]:
        """Return the chats of `grade`, whose labels' tokens are looked at, or of `score`, about one document."""
        docs = self._tokenized(row["texts"])
        chats, cut = self._fitted(row, docs)
        asked = _looking_at(self.label_ids) if self.cfg.task == "grade" else {"pooling_params": AS_IT_IS}
        return [
            _prompt(ids, start=len(ids), truncated=_lost([doc], cut, self.cfg.doc_tokens), **asked)
            for ids, doc in zip(chats, docs, strict=True)
        ]

    def _identifiers(self, count: int) -> tuple[list[int], tuple[int, ...]]:
        """Return the tokens before the first identifier's number, and that of each number; or raise `TooLong`."""
        form = self.cfg.prompt.identifier
        try:
            at, names = identifiers(self.tokenizer, count, form)
        except InvalidInput as error:
            raise prompts.TooLong(f"{count} documents: {error.problem}") from error
        first = self.tokenizer(prompts.identifier(form, 1), add_special_tokens=False)["input_ids"]
        return first[:at], names[:count]

    def read_logprobs(self, logprobs: Mapping[int, float], count: int) -> dict[str, Any]:
        """Return the answer that the log-probabilities of tokens are: a grade's `score`, or the `text` of an order of
        `count` documents and their `scores`, as shown."""
        if self.cfg.task == "grade":
            return {"score": self.cfg.prompt.value([logprobs[token] for token in self.label_ids])}
        scores = [logprobs[token] for token in self._identifiers(count)[1]]
        best_first = sorted(range(count), key=lambda index: -scores[index])
        return {"text": self.cfg.prompt.written(best_first), "scores": scores}

    def _ids(self, chat: Chat) -> list[int]:
        """Return the token ids of a chat's messages, or of a whole text."""
        return self.control.ids([chat])[0] if isinstance(chat, str) else self.chat_template.ids(chat)

    def _sliding(self, row: Row) -> Prompt:
        """Return all of a row's documents, cut so that any window of them fits; `window` asks about one."""
        docs = self._tokenized(row["texts"])
        longest = sorted(range(len(docs)), key=lambda index: -len(docs[index]))[: self.cfg.window]
        fullest = {**row, **{key: [row[key][index] for index in longest] for key in ("doc_ids", "texts")}}
        _, cut = self._fitted(fullest, [docs[index] for index in longest])
        short = _cutter(self.tokenizer, row["texts"], docs, cut)
        texts = [short(text, cut) for text in row["texts"]]
        return _prompt(
            truncated=_lost(docs, cut, self.cfg.doc_tokens), **_windowed(row["query"], texts), **self._sampling(0)
        )

    def window(self, query: str, texts: Sequence[str]) -> Prompt:
        """Return one window's prompt for vLLM; `texts` as `_sliding` has cut them."""
        chat = self.cfg.prompt.chat(self.guarded(query), [self.guarded(text) for text in texts])
        tokens = {"token_ids": self._ids(chat)}
        return cast(Prompt, tokens | self._sampling(len(texts)))

    def _tokenized(self, texts: Sequence[str]) -> list[list[int]]:
        return self.control.ids([self.guarded(text) for text in texts])

    def _fitted(self, row: Row, docs: Sequence[Sequence[int]]) -> tuple[list[list[int]], int]:
        """Return a row's chats, tokenized, and the tokens that every document had to be cut to for that; or raise
        `TooLong`."""
        longest = max(map(len, shown(row, self.cfg)), default=0)
        cut, answer = self.cfg.doc_tokens, _room_kept(self.cfg, self.tokenizer, longest)
        room = self.limit - answer
        while True:
            chats = [
                self._ids(chat) for chat in self._conversations(row, _cutter(self.tokenizer, row["texts"], docs, cut))
            ]
            over = max(map(len, chats)) - room
            if over <= 0:
                return chats, cut
            lengths = [min(len(doc), cut) for doc in docs]
            if self.cfg.task == "order" and not self.cfg.block:  # a chat shows all documents
                cut = prompts.fit_tokens(lengths, sum(lengths) - over)
            else:  # a block of them, or one
                cut = min(cut, max(lengths)) - max(1, over // max(self.cfg.block, 1))
            if cut < 1:
                alone = max(map(len, chats)) - sum(lengths)
                found_text = f"about {alone} tokens without the documents, the model takes {self.limit}"
                raise prompts.TooLong(f"{found_text} with {answer} for the answer")

    def _sampling(self, count: int) -> dict[str, Any]:
        """Return greedy sampling; with `structured`, of nothing but identifiers of `count` documents."""
        most = answer_tokens(self.cfg, self.tokenizer, count)
        sampling: dict[str, Any] = {"max_tokens": most, "temperature": 0.0}
        if self.cfg.thinking_tokens:
            sampling["thinking_token_budget"] = self.cfg.thinking_tokens
        if self.cfg.structured and self.cfg.task == "order" and count:
            sampling["structured_outputs"] = {"regex": self.cfg.prompt.grammar(count)}
        return {"sampling_params": sampling}

    def chats(self, row: Row) -> list[Chat]:
        """Return a row's chats with documents cut to words: no tokenizer is needed."""
        return self._conversations(row, first_words)

    def _conversations(self, row: Row, cut: Callable[[str, int], str]) -> list[Chat]:
        query = self.guarded(row["query"])
        texts = [self.guarded(cut(text, self.cfg.doc_tokens)) for text in row["texts"]]
        if self.cfg.task == "order":
            return [self.cfg.prompt.chat(query, [texts[index] for index in order]) for order in shown(row, self.cfg)]
        if self.cfg.task in ABOUT_ONE:
            return [self.cfg.prompt.chat(query, text) for text in texts]
        ranks = teacher.ranks(teacher.verdict(row, read=self.read))
        return [self.cfg.prompt.chat(query, text, rank, len(texts)) for text, rank in zip(texts, ranks, strict=True)]


def _prompt(
    ids: Sequence[int] = (), *, start: int = 0, truncated: int = 0, too_long: str = "", **more: Any
) -> Prompt:
    tokens = {"token_ids": list(ids)} if ids else {}
    fields = {"start": start, "truncated": int(truncated), "too_long": too_long, **tokens, **more}
    return cast(Prompt, fields)


def _scored(span: prompts.Span, likelihood_by: str) -> Prompt:
    if likelihood_by == "pooler":
        # The pooler needs the states of the whole prompt: a cached prefix would leave its own out.
        pooling = {"extra_kwargs": {"start": span.start}, "skip_reading_prefix_cache": True}
        return _prompt(span.ids, start=span.start, truncated=span.cut, pooling_params=pooling)
    sampling = {"max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0, "detokenize": False}
    return _prompt(span.ids, start=span.start, truncated=span.cut, sampling_params=sampling)


def _looking_at(tokens: Sequence[int]) -> dict[str, Any]:
    """Return the sampling of a single forward pass that gives the log-probabilities of these tokens."""
    looked = {"logprob_token_ids": list(tokens), "detokenize": False}
    return {"sampling_params": {"max_tokens": 1, "temperature": 0.0, **looked}}


def _cutter(
    tokenizer: Any, texts: Sequence[str], docs: Sequence[Sequence[int]], cut: int
) -> Callable[[str, int], str]:
    short = {
        text: str(tokenizer.decode(list(ids[:cut]))) if len(ids) > cut else text
        for text, ids in zip(texts, docs, strict=True)
    }
    return lambda text, _: short[text]


def _lost(docs: Sequence[Sequence[int]], cut: int, doc_tokens: int) -> int:
    """Return how many documents are cut below `doc_tokens`."""
    return sum(len(doc[:doc_tokens]) > cut for doc in docs)


def _windowed(query: str, texts: Sequence[str]) -> dict[str, Any]:
    """Return the prompt that `engines.slide` reads: windows are planned as the answers come."""
    return {"sliding": json.dumps({"query": query, "texts": list(texts)})}
