"""A vLLM plugin: query likelihood of any causal LM inside the engine, projecting the query's tokens only.

vLLM's `prompt_logprobs` projects every prompt token to the vocabulary and sends a dict per token through three
processes, for a judge that needs one number from the last dozen tokens. Here the same model runs as a pooling model:
its pooler takes the hidden states before the query's tokens, projects them in one product for the whole batch, and
returns the mean log-probability. `PoolingParams.extra_kwargs["start"]` says where the query begins.

An engine uses it with `runner="pooling"` and `hf_overrides={"architectures": [architecture("LlamaForCausalLM")]}`.
vLLM finds `register_likelihood` by the entry point `vllm.general_plugins`, in each of its processes.

Uses: `ModelRegistry.models[...].load_model_cls` and vLLM's pooler classes (vLLM 0.29).

Upstream: vLLM has no pooling task that projects given tokens only. Delete when it has one.

Breaks: an engine for `likelihood_by: pooler` does not start; `prompt_logprobs` labels the same, slower.
"""

from __future__ import annotations

from collections.abc import Set
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

PREFIX = "QueryLikelihood"


def architecture(name: str) -> str:
    """Return the name under which a causal LM's likelihood twin is registered."""
    return f"{PREFIX}{name}"


def register_likelihood() -> None:
    """Register a twin for every causal LM that vLLM knows; their classes are made when one is loaded."""
    from vllm import ModelRegistry

    for name in list(ModelRegistry.get_supported_archs()):
        if name.endswith("ForCausalLM") and not name.startswith(PREFIX):
            ModelRegistry.register_model(architecture(name), f"{__name__}:{architecture(name)}")


def __getattr__(name: str) -> Any:
    if not name.startswith(PREFIX):
        raise AttributeError(name)
    return _twin(name.removeprefix(PREFIX))


def _mean_logprobs(project: Any, spans: list[torch.Tensor], tokens: list[torch.Tensor]) -> list[torch.Tensor]:
    """Return the mean log p of each span's tokens, given the states before them; one product for all spans."""
    import torch

    logprobs = project(torch.cat(spans)).float().log_softmax(-1)
    chosen = logprobs.gather(1, torch.cat(tokens).to(logprobs.device)[:, None].long())[:, 0]
    return [values.mean() for values in chosen.split([len(span) for span in spans])]


@cache
def _pooler_class() -> type:
    """Return the class of a vLLM pooler that turns the states of a prompt into one number."""
    from vllm.model_executor.layers.pooler import PoolingParamsUpdate
    from vllm.model_executor.layers.pooler.abstract import Pooler
    from vllm.model_executor.layers.pooler.tokwise import AllPool

    class LikelihoodPooler(Pooler):
        """Hidden states of whole prompts to one number each: mean log p of the tokens from `start` on."""

        def __init__(self, model: Any) -> None:
            super().__init__()
            self.whole = AllPool()  # puts chunks of a prompt together
            self.project = model.compute_logits  # a bound method: the model must not become this module's child

        def get_supported_tasks(self) -> Set[Any]:
            return {"embed"}

        def get_pooling_updates(self, task: Any) -> PoolingParamsUpdate:
            return PoolingParamsUpdate(requires_token_ids=True)

        def forward(self, hidden_states: torch.Tensor, pooling_metadata: Any) -> list[torch.Tensor | None]:
            spans, tokens, rows = [], [], []
            states = self.whole(hidden_states, pooling_metadata)
            ids = pooling_metadata.get_prompt_token_ids_cpu()
            for row, state in enumerate(states):
                if state is None:  # the rest of this prompt comes in a later step
                    continue
                start = (pooling_metadata.pooling_params[row].extra_kwargs or {}).get("start", 1)
                spans.append(state[start - 1 : len(ids[row]) - 1])
                tokens.append(ids[row][start:])
                rows.append(row)
            out: list[torch.Tensor | None] = [None] * len(states)
            if not spans:
                return out
            for row, mean in zip(rows, _mean_logprobs(self.project, spans, tokens), strict=True):
                out[row] = mean[None]
            return out

    return LikelihoodPooler


@cache
def _twin(name: str) -> type:
    """Return the class of a causal LM that pools likelihoods."""
    from vllm import ModelRegistry

    base = ModelRegistry.models[name].load_model_cls()

    def init(self: Any, *, vllm_config: Any, prefix: str = "", **options: Any) -> None:
        base.__init__(self, vllm_config=vllm_config, prefix=prefix, **options)
        self.pooler = _pooler_class()(self)

    return type(architecture(name), (base,), {"__init__": init, "is_pooling_model": True, "__module__": __name__})
