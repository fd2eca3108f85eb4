"""The processes of Ray Train know their cluster's address, on a machine with several clusters too.

Ray Train's cleaner of placement groups asks Ray's state API, which looks for a cluster on the machine instead of
taking the process's own. Where there are two it dies, with a traceback, and a training that dies leaves its
resources taken.

Uses: the set of variables that Ray Train hands from the driver to its controller (`ENV_VARS_TO_PROPAGATE`, Ray 2.60).

Upstream: https://github.com/ray-project/ray/pull/65447 rewrites the cleaner. Delete when it takes its own cluster.

Breaks: no training starts (AttributeError), or the traceback is back.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from ray.train.v2._internal import constants

ADDRESS = "RAY_ADDRESS"


@contextlib.contextmanager
def known(address: str) -> Iterator[None]:
    """Hand the address of the cluster, `host:port` of its GCS, to the processes of trainings in the block."""
    before = os.environ.get(ADDRESS)
    os.environ[ADDRESS] = address
    constants.ENV_VARS_TO_PROPAGATE.add(ADDRESS)
    try:
        yield
    finally:
        constants.ENV_VARS_TO_PROPAGATE.discard(ADDRESS)
        del os.environ[ADDRESS]
        if before is not None:
            os.environ[ADDRESS] = before
