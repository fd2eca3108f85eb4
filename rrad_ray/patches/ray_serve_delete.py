"""Deleting a Serve application without waiting for it.

Uses: the private argument `_blocking` of `serve.delete` (Ray 2.60).

Upstream: blocking, `serve.delete` gives up after a minute, while requests inside may take longer. Delete when it
takes a time limit.

Breaks: an endpoint that ends raises a TypeError instead of waiting for the requests inside.
"""

from __future__ import annotations


def delete_without_waiting(name: str) -> None:
    """Begin to delete an application; `serve.status()` says when it is gone."""
    from ray import serve

    serve.delete(name, _blocking=False)
