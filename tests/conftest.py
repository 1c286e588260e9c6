"""What every test gets: an environment that reaches no network, one S3 server and one small Ray per test run."""

from __future__ import annotations

import os

# Before anything imports ray, transformers or torch: each reads these once.
os.environ.update(
    {
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",  # many small processes share the cores
        "RAY_AUTH_MODE": "disabled",  # unset, ray.init() writes a token into the home folder and later runs find it
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # every listener stays on 127.0.0.1
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_prestart_worker_first_driver": "0",  # no worker for each core that no test has asked for
    }
)
if not os.path.exists("/dev/nvidiactl") or os.environ.get("CUDA_VISIBLE_DEVICES") == "":
    os.environ["TRITON_INTERPRET"] = "1"  # no GPU: kernels run in Triton's interpreter
os.environ.pop("RAY_ADDRESS", None)  # never join the cluster of the person who runs the tests

import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.support.servers import ceph
from tests.support.servers.chosen import chosen_server
from tests.support.servers.moto import MotoServer
from tests.support.servers.s3 import S3Server

ACCESS_KEY, SECRET_KEY = "janus-batch-tests", "a secret of the tests only"
S3_TESTS_RAN = pytest.StashKey[bool]()
# No test asserts on time: a busy machine makes any example slow.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")
NOT_QUICK = {"ray", "s3", "interpreter", "gpu", "slow"}


@contextmanager
def aws_settings() -> Iterator[None]:
    """The S3 server's keys, and nothing of the person's own AWS settings, in the environment."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
            patch.delenv(name, raising=False)
        patch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_CONFIG_FILE", os.devnull)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield


@pytest.fixture(scope="session")
def aws_environment() -> Iterator[None]:
    """The environment of `aws_settings` during this run of the tests."""
    with aws_settings():
        yield


@pytest.fixture(scope="session")
def s3_server(
    aws_environment: None, tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> Iterator[S3Server]:
    """A running S3 server, see tests/support/servers/chosen.py."""
    server = chosen_server()(tmp_path_factory.mktemp("s3"), bucket="tests", key=ACCESS_KEY, secret=SECRET_KEY)
    pytestconfig.stash[S3_TESTS_RAN] = True
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture
def s3_folder(s3_server: S3Server, request: pytest.FixtureRequest) -> str:
    """The URL of an empty folder of the S3 server, this test's own."""
    assert request.node.get_closest_marker("s3"), "a test that asks for this by request.getfixturevalue needs the mark"
    return s3_server.url(f"folder-{uuid.uuid4().hex[:12]}")


@pytest.fixture(scope="session")
def ray_cluster(aws_environment: None) -> Iterator[None]:
    """A small Ray, started by this process and on this machine; its workers have the S3 server's keys."""
    import ray

    ray.init(
        address="local",  # otherwise ray.init() joins a Ray that `ray start` left running
        num_cpus=4,
        num_gpus=0,
        object_store_memory=300 * 2**20,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="warning",
        # Ray ends an idle worker after a second if there are more than cores, and the next test starts it again.
        _system_config={"num_workers_soft_limit": 8, "idle_worker_killing_time_threshold_ms": 600_000},
    )
    yield
    ray.shutdown()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        for fixture, marker in (("s3_server", pytest.mark.s3), ("ray_cluster", pytest.mark.ray)):
            if fixture in fixtures:
                item.add_marker(marker)
        if not NOT_QUICK.intersection(marker.name for marker in item.iter_markers()):
            item.add_marker(pytest.mark.quick)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Under pytest-xdist: tell the process that prints the summary."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["s3_tests_ran"] = session.config.stash.get(S3_TESTS_RAN, False)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    if node.workeroutput["s3_tests_ran"]:
        node.config.stash[S3_TESTS_RAN] = True


def pytest_report_header() -> str:
    return f"S3 server: {_describe_s3_server()}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if config.stash.get(S3_TESTS_RAN, False):
        terminalreporter.write_line(f"S3 tests ran against {_describe_s3_server()}")


def _describe_s3_server() -> str:
    if chosen_server() is MotoServer:
        return "moto" if ceph.is_installed() else "moto: radosgw is not installed"
    version = subprocess.run(["radosgw", "--version"], capture_output=True, text=True).stdout.split()
    return " ".join(["Ceph radosgw", *version[2:3]])
