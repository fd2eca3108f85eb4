"""Ray Train's processes are told the address of their cluster, and nobody else is."""

from __future__ import annotations

import os

import pytest
from ray.train.v2._internal import constants

from rrad_ray.patches import ray_train_address


@pytest.mark.parametrize("before", [None, "192.0.2.9:6379"])
def test_trainings_are_told_their_cluster_within_the_block_only(
    monkeypatch: pytest.MonkeyPatch, before: str | None
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if before:
        monkeypatch.setenv("RAY_ADDRESS", before)
    assert "RAY_ADDRESS" not in constants.get_env_vars_to_propagate(), "Ray does it: the patch can go"
    with ray_train_address.known("192.0.2.1:6000"):
        assert constants.get_env_vars_to_propagate()["RAY_ADDRESS"] == "192.0.2.1:6000"
    assert "RAY_ADDRESS" not in constants.get_env_vars_to_propagate()
    assert os.environ.get("RAY_ADDRESS") == before
