"""The failure of a training worker behind Ray Train's own error.

Uses: `worker_failures` of the errors of Ray Train v2 (Ray 2.60).

Upstream: the attribute is public in name and undocumented. Delete when it is documented.

Breaks: a failed training says that workers failed, not why.
"""

from __future__ import annotations


def first_failure(error: BaseException) -> BaseException:
    """Return the first worker's failure, or the error itself where it has none."""
    failures = getattr(error, "worker_failures", None)
    return next(iter(failures.values())) if failures else error
