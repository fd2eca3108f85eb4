"""Fixtures of the tests without Ray."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from rrad_ray import models
from rrad_ray.rankers import Ranker


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """These models are small: more threads only wait for each other, above all on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A pretrained encoder with a head whose scores differ, saved."""
    folder = str(tmp_path_factory.mktemp("student"))
    torch.manual_seed(0)
    ranker = Ranker.encoder(models.resolve(models.BUNDLED[0]), max_length=128)
    torch.nn.init.normal_(ranker.model.classifier.weight, std=0.4)
    ranker.save(folder)
    return folder
