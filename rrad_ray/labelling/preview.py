"""The prompts of a few queries as text, for `rrad judge CONFIG --show-prompts 3`.

They are planned as a run plans them. No engine and no Ray is started, and nothing is written.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice

from rrad_ray.config import JudgeConfig
from rrad_ray.config.template_files import DEFAULTS
from rrad_ray.errors import RradError, at_place, in_stage
from rrad_ray.labelling import chat_template, planner
from rrad_ray.labelling.answer_patterns import check_template
from rrad_ray.labelling.prompt_calls import Prompt, calls_of
from rrad_ray.labelling.source import source_reader, source_row
from rrad_ray.languages.scripts import first_words
from rrad_ray.rows import Row
from rrad_ray.tables import checkpoints, shards


def preview(cfg: JudgeConfig, count: int) -> Iterator[str]:
    """Yield all prompts of the first `count` queries that a run would ask about, dev queries first.

    Of the model only tokenizer and config are needed. Raises `RradError` for what a run would refuse before it pays.
    """
    with in_stage("judge"):
        check_template(cfg)
        planned = sorted(
            shards.plan_shards(cfg.input, cfg.shard_queries, source_row(cfg)), key=lambda each: not each.dev
        )
        rows = (row for shard in planned for row in shards.read_shard(cfg.input, shard, source_row(cfg)))
        prompts_of = PromptTexts(cfg)
        asked = ((row, texts) for row in rows if (texts := prompts_of(row)))
        yield _heading(cfg)
        chosen = list(islice(asked, count))
        for row, texts in chosen:
            yield f"===== query {row['query_id']}: {row['query']}"
            for number, text in enumerate(texts, 1):
                yield f"----- prompt {number} of {len(texts)}, {text}"
        if not chosen:
            raise RradError(cfg.input, f"no query that task={cfg.task} asks about", "check the input and the task")


def _heading(cfg: JudgeConfig) -> str:
    template = f"template {cfg.template or DEFAULTS[cfg.task]} ({cfg.prompt.digest}), " if cfg.prompt else ""
    asks = f"model {cfg.model}" if cfg.engine in ("vllm", "openai") else "which asks no model: prompts as of openai"
    return f"{template}task {cfg.task}, engine {cfg.engine}, {asks}"


class PromptTexts:
    """A function of a row that returns the texts of its prompts, with the number of tokens where it is known."""

    def __init__(self, cfg: JudgeConfig) -> None:
        self.cfg = cfg
        model = checkpoints.resolve(cfg.model, weights=False) if cfg.engine == "vllm" else cfg.model
        with at_place(model, "name a whole checkpoint"):
            self.planner = planner.Planner(cfg, model, source_reader(cfg.input))

    def __call__(self, row: Row) -> list[str]:
        if not planner.slots(row, self.cfg, self.planner.read):
            return []
        if self.cfg.engine in ("echo", "simulated"):
            return self._unasked(row)
        return [self._text(call) for prompt in self.planner(row) for call in calls_of(prompt)]

    def _text(self, prompt: Prompt) -> str:
        if prompt["too_long"]:
            return f"not asked, too long: {prompt['too_long']}"
        cut = f", {prompt['truncated']} documents cut" if prompt["truncated"] else ""
        if "sliding" in prompt:
            return (
                f"the first window of {self.cfg.window} (later ones depend on answers){cut}\n{self._window(prompt)}"
            )
        if "messages" in prompt:
            return f"messages{cut}\n{self._messages(json.loads(prompt['messages']))}"
        return f"{len(prompt['token_ids'])} tokens{cut}\n{self.planner.tokenizer.decode(prompt['token_ids'])}"

    def _window(self, prompt: Prompt) -> str:
        row = json.loads(prompt["sliding"])
        texts = row["texts"][-self.cfg.window :]
        if self.cfg.engine == "vllm":
            ids = self.planner.window(row["query"], texts)["token_ids"]
            return str(self.planner.tokenizer.decode(ids))
        return self._messages(self.cfg.prompt.chat(row["query"], texts))

    def _messages(self, messages: chat_template.Messages) -> str:
        return _chat(chat_template.with_system_as(self.cfg.openai.system_role, messages))

    def _unasked(self, row: Row) -> list[str]:
        """Return what an engine that asks would send: as `openai` does, since no tokenizer is at hand."""
        if self.cfg.prompt and self.cfg.task != "likelihood":
            return [f"messages\n{_chat(chat)}" for chat in self.planner.chats(row)]
        texts = [first_words(text, self.cfg.doc_tokens) for text in row["texts"]]
        if not self.cfg.prompt:
            return [f"pair\n{row['query']}\n{text}" for text in texts]
        before, between, lead = self.cfg.prompt.pieces
        return [f"text\n{before}{text}{between}{lead}{row['query']}" for text in texts]


def _chat(messages: planner.Chat) -> str:
    if isinstance(messages, str):
        return messages
    return "\n".join(f"<{message['role']}>\n{message['content']}" for message in messages)
