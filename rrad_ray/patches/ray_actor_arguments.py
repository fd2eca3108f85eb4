"""The arguments of Ray Data's actors, given to them by value, and other actors by name.

Uses: `ActorPoolMapOperator._start_actor` and `_actor_cls` (Ray 2.60). Ray Data puts two small arguments of each actor
into the object store; Ray then says on the driver's stderr, with no switch, that an actor's restart fails when they
are lost. By value they cannot be lost, and there is nothing to say. It says the same of an actor among the arguments.

Upstream: https://github.com/ray-project/ray/issues/53727. Delete when Ray Data's actors no longer take references.

Breaks: the line is on the terminal again.
"""

from __future__ import annotations

import functools
from typing import Any


class _ByValue:
    """An actor class whose actors get the values of the references among their arguments."""

    def __init__(self, actor_class: Any) -> None:
        self.actor_class = actor_class

    def options(self, **options: Any) -> _ByValue:
        return _ByValue(self.actor_class.options(**options))

    def remote(self, **arguments: Any) -> Any:
        import ray

        values = {
            name: ray.get(value) if isinstance(value, ray.ObjectRef) else value for name, value in arguments.items()
        }
        return self.actor_class.remote(**values)


class ByName:
    """An actor of this driver, which another actor's arguments may hold: there it is looked up by its name, which is
    unique. The actor lives as long as this object."""

    def __init__(self, actor: Any, name: str) -> None:
        self.actor, self.name = actor, name

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        import ray

        return ray.get_actor, (self.name,)


def give_by_value() -> None:
    """Have Ray Data give its actors their arguments by value, from now on in this process."""
    from ray.data._internal.execution.operators.actor_pool_map_operator import ActorPoolMapOperator

    operator: Any = ActorPoolMapOperator
    start = operator._start_actor
    if hasattr(start, "__wrapped__"):
        return

    @functools.wraps(start)
    def start_by_value(self: Any, *arguments: Any, **named: Any) -> Any:
        actor_class, self._actor_cls = self._actor_cls, _ByValue(self._actor_cls)
        try:
            return start(self, *arguments, **named)
        finally:
            self._actor_cls = actor_class

    operator._start_actor = start_by_value
