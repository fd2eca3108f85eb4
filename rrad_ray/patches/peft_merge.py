"""Forgetting the adapters of a transformers model after they are merged.

Uses: the attributes `peft_config` and `_hf_peft_config_loaded` of transformers' models (transformers 5.17).

Upstream: `PeftAdapterMixin` loads and deletes adapters, and does not merge them. Delete when it does.

Breaks: a merged student is saved with the mark of adapters that it no longer has, and does not load.
"""

from __future__ import annotations

from typing import Any


def forget_adapters(model: Any) -> None:
    """Make a model whose adapters are merged look as if it never had any."""
    del model.peft_config
    model._hf_peft_config_loaded = False
