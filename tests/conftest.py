"""What all tests share: no model hub, and an S3 server of their own on this machine."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from rrad_ray.errors import in_stage

settings.register_profile("shared", deadline=None)  # another test may have the cores
settings.load_profile("shared")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the `rrad` command does, before torch is imported
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# By Ray's own 15, a test's workers would get a thirtieth of a core beside another test process.
os.environ.setdefault("RAY_worker_niceness", "0")
BUCKET = "rrad"
_numbers = itertools.count()
LONGEST = ("stages/test_pipeline", "stages/test_judge_kills", "stages/test_judge", "runtime/test_autoscaling")
LONGEST += ("stages/test_train", "stages/test_finetune", "runtime/test_engines", "runtime/test_head")
LONGEST += ("runtime/test_endpoint", "runtime/test_endpoint_online", "runtime/test_endpoint_faults")
LONGEST += ("runtime/test_endpoint_clients", "runtime/test_endpoint_search")
pytest_plugins = ("tests.fixtures", "tests.autoscaling")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest come first: processes that share the files then end at about the same time."""
    order = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(f"{item.path.parent.name}/{item.path.stem}", len(order)))


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes are named after their argument: gzip writes the hour into them, and processes that share the tests have
    to know each by the same name."""
    return argname if isinstance(val, bytes) else None


@pytest.fixture
def in_judge() -> Iterator[None]:
    """The test stands for a stage's code: its errors and lines begin with `judge`."""
    with in_stage("judge"):
        yield


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """A real S3 server (moto) on a free port, with one bucket; the environment names it until the tests end."""
    import boto3
    import s3fs
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", endpoint)
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        s3fs.S3FileSystem.clear_instance_cache()
        boto3.client("s3").create_bucket(Bucket=BUCKET)
        yield endpoint
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


@pytest.fixture
def s3_uri(s3_endpoint: str) -> str:
    """An empty place on the S3 server, another one for each test."""
    return f"s3://{BUCKET}/test-{next(_numbers)}"
