"""Starting Ray here or joining one: what is tried once more, and what the user is told. The errors are Ray's own."""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Iterator

import pytest
import ray
from ray._private import services
from ray._private.utils import check_version_info

from tests.support.servers.process import free_port
from workflows.dispatch import ray_start
from workflows.dispatch.ray_start import ClusterError, RayNotStartedError, join_ray, start_ray

SLOW_STARTS = [
    Exception(
        "The current node timed out during startup. This could happen because some of the raylet failed to startup"
    ),
    RuntimeError("Failed to start GCS.  Last 0 lines of error files:\n\n.Please check /tmp/ray/gcs_server.out"),
    ConnectionError("Could not read 'session_name' from GCS. Did GCS start successfully?"),
    Exception("No node info found for head node in GCS. Did the head node or gcs start successfully?"),
    Exception("Head node temp_dir not found in NodeInfo, either GCS or head node's raylet may not have started"),
    TimeoutError("Timed out after 30 seconds while waiting for node to startup."),
    ray.exceptions.RaySystemError("System error: Broken pipe"),
]
LASTING = [
    (OSError(errno.ENOSPC, "No space left on device"), "set RAY_TMPDIR to a short path on a disk with room"),
    (
        PermissionError(errno.EACCES, "Permission denied", "/tmp/ray"),
        "set RAY_TMPDIR to a short path on a disk with room",
    ),
    (
        OSError(errno.EADDRINUSE, "Address already in use"),
        "another program uses a port that Ray needs; end it, or join",
    ),
    (ValueError("The requested object store memory is larger than /dev/shm"), "may be busy or short of memory"),
]


class Start:
    """Takes the place of ray.init(): raises these errors, one per call, and then succeeds."""

    def __init__(self, *errors: Exception) -> None:
        self.errors, self.num_calls = list(errors), 0
        self.options: dict[str, object] = {}

    def __call__(self, *_args: object, **options: object) -> None:
        self.num_calls += 1
        self.options = options
        if self.errors:
            raise self.errors.pop(0)


@pytest.fixture
def patch(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Keeps this process's own Ray, if it runs, as it is."""
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.delenv("TMPDIR", raising=False)
    return monkeypatch


@pytest.mark.parametrize("error", SLOW_STARTS, ids=str)
def test_a_slow_start_is_tried_once_more(patch: pytest.MonkeyPatch, error: Exception) -> None:
    start = Start(error)
    patch.setattr(ray, "init", start)
    start_ray()

    assert start.num_calls == 2


def test_a_local_ray_starts_no_worker_before_it_is_needed(patch: pytest.MonkeyPatch) -> None:
    """Ray's default is a worker of 50 to 90 MB for every core, whatever the run needs."""
    start = Start()
    patch.setattr(ray, "init", start)
    start_ray()

    assert start.options["_system_config"] == {"prestart_worker_first_driver": False}


def test_a_second_slow_start_is_reported_with_what_to_do(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ray, "init", Start(*SLOW_STARTS[:2]))
    expected = (
        r"not start on this machine: Failed to start GCS.*; the machine may be busy .*/tmp/ray/session_latest/logs"
    )
    with pytest.raises(RayNotStartedError, match=expected):
        start_ray()


@pytest.mark.parametrize(("error", "remedy"), LASTING, ids=str)
def test_a_start_that_cannot_succeed_is_tried_once(patch: pytest.MonkeyPatch, error: Exception, remedy: str) -> None:
    start = Start(error)
    patch.setattr(ray, "init", start)
    with pytest.raises(RayNotStartedError, match=remedy):
        start_ray()

    assert start.num_calls == 1


@pytest.mark.parametrize("error", SLOW_STARTS, ids=str)
def test_a_cluster_that_does_not_answer_is_refused_in_one_line(patch: pytest.MonkeyPatch, error: Exception) -> None:
    patch.setattr(ray, "init", start := Start(error))
    with socket.create_server(("127.0.0.1", 0)) as server:
        patch.setattr(ray_start, "_check_speaks_grpc", lambda found: connected.append(found))
        patch.setattr(services, "find_bootstrap_address", lambda folder: address)
        patch.setattr(services, "find_gcs_addresses", set)
        patch.setattr(services, "resolve_ip_for_localhost", lambda host: host)
        address, connected = f"127.0.0.1:{server.getsockname()[1]}", list[str]()
        with pytest.raises(ClusterError, match="--address: no Ray cluster can be joined at auto") as refused:
            join_ray("auto")

    assert (connected, start.num_calls) == ([address], 1)

    assert len(str(refused.value).splitlines()) == 1


def test_a_cluster_of_other_versions_is_refused_with_both(patch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError) as raised:
        check_version_info({"ray_version": "2.51.0", "python_version": "3.12.1"}, "node 10.0.0.2:6379")
    patch.setattr(ray, "init", Start(raised.value))
    patch.setattr(ray_start, "_check_speaks_grpc", lambda address: None)

    words = (
        r"has another version of Ray or Python .*Ray: 2\.51\.0 Python: 3\.12\.1 This .* Ray: .*install the versions of"
    )
    with pytest.raises(ClusterError, match=words):
        join_ray("10.0.0.2:6379")


def test_an_address_of_this_machine_is_tried_as_ray_resolves_it(patch: pytest.MonkeyPatch) -> None:
    """Ray would try without end to reach a head node there that listens on 127.0.0.1 only."""
    patch.setattr(services, "resolve_ip_for_localhost", lambda host: "127.0.0.2")
    patch.setattr(ray, "init", start := Start())
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(ClusterError, match="Connection refused"):
        join_ray(f"127.0.0.1:{server.getsockname()[1]}")

    assert start.num_calls == 0


def test_the_address_that_a_killed_cluster_left_behind_is_refused(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ray, "init", start := Start())
    patch.setattr(services, "find_bootstrap_address", lambda folder: f"127.0.0.1:{free_port()}")
    patch.setattr(services, "find_gcs_addresses", set)
    with pytest.raises(ClusterError, match=r"--address: no Ray cluster can be joined at auto .*Connection refused"):
        join_ray("auto")

    assert start.num_calls == 0


def test_a_port_where_nothing_listens_is_refused_before_ray_waits_for_it(patch: pytest.MonkeyPatch) -> None:
    start = Start()
    patch.setattr(ray, "init", start)
    with pytest.raises(ClusterError, match="Connection refused"):
        join_ray(f"127.0.0.1:{free_port()}")

    assert start.num_calls == 0


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "the server there is not Ray's; the dashboard's port, 8265, is another"),
        (b"", "the server there is not Ray's"),
        (None, "timed out"),
    ],
    ids=["dashboard", "closes", "silent"],
)
def test_a_server_that_is_not_rays_is_refused_before_ray_waits_for_it(
    patch: pytest.MonkeyPatch, answer: bytes | None, message: str
) -> None:
    patch.setattr("workflows.dispatch.ray_start._init", lambda address: pytest.fail("Ray waits for minutes"))
    patch.setattr("workflows.dispatch.ray_start.ANSWER_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        patch.setenv("RAY_ADDRESS", address)

        def serve() -> None:
            connection, _ = server.accept()
            connection.recv(64)
            if answer is not None:
                connection.sendall(answer)
                connection.close()
            else:
                held.append(connection)

        held: list[socket.socket] = []
        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(ClusterError, match=f"RAY_ADDRESS: no Ray cluster can be joined at {address}.*{message}"):
            join_ray(address)
        thread.join()
        for connection in held:
            connection.close()


def test_on_macos_the_long_folder_of_tmpdir_is_no_fault(patch: pytest.MonkeyPatch) -> None:
    """macOS sets TMPDIR for every user. Ray uses it on Linux only."""
    folder = "/var/folders/zz/zyxvpxvq6csfxvn_n0000000000000/T/"
    patch.setenv("TMPDIR", folder)
    patch.setattr(ray, "init", Start())

    with pytest.raises(ClusterError, match=r"^TMPDIR: "):
        start_ray()
    patch.setattr(ray_start.sys, "platform", "darwin")
    start_ray()
    patch.setenv("RAY_TMPDIR", folder)
    with pytest.raises(ClusterError, match=r"^RAY_TMPDIR: "):
        start_ray()
