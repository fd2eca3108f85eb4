"""Settings of Ray Data that its documentation does not promise.

Uses: `DataContext.issue_detectors_config.detectors` and `DataContext.raise_original_map_exception` (Ray 2.60).

Upstream: nothing is asked for; both are fields of a public class. Delete when they are documented.

Breaks: the detectors' warnings are on the terminal again; an error of a reading task comes wrapped in Ray's own.
"""

from __future__ import annotations

from typing import Any


def stop_detectors(context: Any) -> None:
    """Keep warnings about slow or hanging operators, which a user cannot act on, off the terminal."""
    context.issue_detectors_config.detectors = []


def raise_causes(context: Any) -> None:
    """Have a failed map task raise its own exception as the cause of Ray's."""
    context.raise_original_map_exception = True
