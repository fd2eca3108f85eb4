"""Checks of what a run needs from its surroundings, each with what to do about it: `rrad doctor`.

Imports `runtime` and what that may import; `runtime` runs the checks of `machine` and `store` on a cluster's nodes.
"""
