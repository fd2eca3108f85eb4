"""Secrets in configs: what is written or printed of a config shows where they stand, and not what they are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "***"

# Keys with a secret as their text: HF_TOKEN, hf_token, AWS_SECRET_ACCESS_KEY, WANDB_API_KEY, db-password.
SECRET_KEY = re.compile(r"(^|[_-])(token|key|secret|password|passwd|pwd|credentials?|auth|authorization)$", re.I)

PASSWORD = re.compile(r"(://[^/\s:@]*):[^/\s]+@")  # of a URL


def redacted(content: Any) -> Any:
    """Return JSON's values with `***` for the texts of keys that name secrets, and for the passwords of URLs."""
    if isinstance(content, Mapping):
        return {
            key: HIDDEN if value and isinstance(value, str) and SECRET_KEY.search(str(key)) else redacted(value)
            for key, value in content.items()
        }
    if isinstance(content, list | tuple):
        return [redacted(value) for value in content]
    return PASSWORD.sub(rf"\1:{HIDDEN}@", content) if isinstance(content, str) else content
