"""Train lightning-ir's cross-encoder on given batches; print the seconds of the training, and scores of given lists.

`train_vs_peers` runs this file as a process of its own, with lightning-ir and the older transformers that it needs
before ours on the path. It reads its work as JSON from a file and writes its result to stdout.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import lightning
import torch
from lightning_ir import CrossEncoderModule, KLDivergence, LinearLRSchedulerWithLinearWarmup
from lightning_ir.data import TrainBatch
from lightning_ir.models.cross_encoders.mono import MonoConfig

QUERY_TOKENS = 32  # lightning-ir truncates queries and documents separately


HEAD = "model.linear.weight"


class Module(CrossEncoderModule):
    """lightning-ir's module with a learning rate of its own for the head, and a linear schedule."""

    work: dict[str, Any]

    def configure_optimizers(self) -> Any:
        named = list(self.named_parameters())
        groups = [
            {"params": [weight for name, weight in named if name.endswith(HEAD)], "lr": self.work["head_lr"]},
            {"params": [weight for name, weight in named if not name.endswith(HEAD)], "lr": self.work["lr"]},
        ]
        optimizer = torch.optim.AdamW(groups, weight_decay=self.work["weight_decay"])
        steps = {"num_warmup_steps": self.work["warm"], "num_training_steps": self.work["steps"]}
        falling = LinearLRSchedulerWithLinearWarmup(optimizer, **steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": falling, "interval": "step"}}


class Clock(lightning.Callback):
    """A callback that measures the seconds of the training's steps."""

    def on_train_start(self, *_: Any) -> None:
        self.began = time.perf_counter()

    def on_train_end(self, *_: Any) -> None:
        self.took = time.perf_counter() - self.began


def train(work: dict[str, Any]) -> tuple[float, list[list[float]]]:
    """Train with our rates and no dropout, under bf16 autocast; return the seconds, and scores of `judged`."""
    lightning.seed_everything(work["seed"])
    torch.set_num_threads(work["threads"])
    config = MonoConfig(query_length=QUERY_TOKENS, doc_length=work["max_length"] - QUERY_TOKENS)
    config.update({"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0})
    module = Module(work["model"], config=config, loss_functions=[KLDivergence()])
    module.work, clock = work, Clock()
    batches = [
        TrainBatch(one["query"], one["texts"], one["query"], targets=torch.tensor(one["targets"]))
        for one in work["batches"]
    ]
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = lightning.Trainer(
        accelerator="cpu",
        precision="bf16-mixed",
        max_steps=work["steps"],
        gradient_clip_val=1.0,
        callbacks=[clock],
        **quiet,
    )
    trainer.fit(module, torch.utils.data.DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
    module.eval()
    return clock.took, [module.score(query, texts).scores.tolist() for query, texts in work["judged"]]


if __name__ == "__main__":
    with open(sys.argv[1]) as file:
        print("TOOK " + json.dumps(train(json.load(file))))
