"""One analyser for all languages: it turns text into terms, for whatever compares words.

It imports the vocabulary and libraries that cut text.
"""

from __future__ import annotations

from typing import Literal

Language = Literal[
    "auto", "zh", "ja", "ko", "ar", "ca", "cs", "da", "de", "el", "en", "eo", "es", "et", "eu", "fa", "fi", "fr",
    "ga", "hi", "hu", "hy", "id", "it", "lt", "ne", "nl", "no", "pl", "pt", "ro", "ru", "sr", "sv", "ta", "tr", "yi",
]  # fmt: skip
