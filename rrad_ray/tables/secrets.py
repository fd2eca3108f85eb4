"""Secrets in configs: what is written or printed of a config shows where they stand, and not what they are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "***"

# Keys with a secret as their text: HF_TOKEN, hf_token, AWS_SECRET_ACCESS_KEY, apiKey, apikey, db-password.
_NAMES = "token|key|secret|password|passphrase|passwd|pwd|credentials?|auth|authorization"
_BEFORE = "^|[_-]|api|access|auth|client|private|(?-i:(?<=[a-z0-9])(?=[A-Z]))"
SECRET_KEY = re.compile(rf"({_BEFORE})({_NAMES})$", re.I)

PASSWORD = re.compile(r"(://[^/\s:@]*):[^/\s]+@")  # of a URL
# In the query of a URL, as of one that is signed; and in a header that stands as one text.
PARAMETER = re.compile(rf"([?&][\w-]*({_NAMES}|sig|signature)=)[^&\s#]+", re.I)
BEARER = re.compile(r"\b(Bearer\s+)(?=\S*\d)\S{8,}")


def redacted(content: Any) -> Any:
    """Return JSON's values with `***` for the texts of keys that name secrets, for passwords and parameters of URLs
    that are some, and for bearer tokens."""
    if isinstance(content, Mapping):
        return {
            key: HIDDEN if value and isinstance(value, str) and SECRET_KEY.search(str(key)) else redacted(value)
            for key, value in content.items()
        }
    if isinstance(content, list | tuple):
        return [redacted(value) for value in content]
    if not isinstance(content, str):
        return content
    content = PASSWORD.sub(rf"\1:{HIDDEN}@", content)
    return BEARER.sub(rf"\1{HIDDEN}", PARAMETER.sub(rf"\1{HIDDEN}", content))
