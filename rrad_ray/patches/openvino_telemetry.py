"""OpenVINO without its reports over the network.

Uses: Python's own rule that a module set to None cannot be imported, against the package `openvino_telemetry`.

Upstream: OpenVINO's converter imports the package where it is installed and has no argument to leave it. Delete when
it has one.

Breaks: nothing of ours; OpenVINO would report each import and conversion.
"""

from __future__ import annotations

import sys


def switch_off() -> None:
    """Keep OpenVINO, imported from now on, from reporting."""
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
