"""A look at whether an autoscaler is starting nodes.

Uses: the key `__autoscaling_status` of Ray's internal key-value store, and `ray.autoscaler.v2.sdk` (Ray 2.60).

Upstream: Ray's public API says which nodes are there, not which are on their way. Delete when it does.

Breaks: a run that waits for its first engine cannot tell a cluster that grows from one that never will.
"""

from __future__ import annotations

import json


def nodes_on_their_way() -> bool:
    """Return true while an autoscaler starts nodes.

    Its first generation says so in the cluster's key-value store, the second in its state; a cluster without one
    starts no nodes.
    """
    import ray
    from ray.autoscaler.v2.sdk import get_cluster_status
    from ray.experimental.internal_kv import _internal_kv_get

    if report_json := _internal_kv_get("__autoscaling_status"):
        report = json.loads(report_json)["autoscaler_report"]
        return bool(report["pending_nodes"] or report["pending_launches"])
    status = get_cluster_status(ray.get_runtime_context().gcs_address)
    return bool(status.pending_nodes or status.pending_launches)
