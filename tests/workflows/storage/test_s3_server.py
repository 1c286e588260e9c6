"""The S3 server that the other tests rely on behaves like one: conditions, signatures, silence and restarts."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.servers.s3 import S3Server
from workflows.storage.store import Storage

NUM_RACERS = 16
NUM_ROUNDS = 5


def test_one_of_many_racing_creators_wins_and_its_content_stays(s3_server: S3Server, s3_folder: str) -> None:
    connections = {"config_kwargs": {"max_pool_connections": NUM_RACERS}}
    storage = Storage(s3_folder, {**s3_server.storage_options, **connections})

    for number in range(NUM_ROUNDS):
        mark = f"mark-{number}"
        start = threading.Barrier(NUM_RACERS)

        def race(racer: int, mark: str = mark, start: threading.Barrier = start) -> bool:
            start.wait()
            return storage.create(mark, f"racer {racer}".encode())

        with ThreadPoolExecutor(NUM_RACERS) as threads:
            won = list(threads.map(race, range(NUM_RACERS)))

        assert won.count(True) == 1
        assert storage.read(mark) == f"racer {won.index(True)}".encode()


def test_a_wrong_secret_is_refused(s3_server: S3Server, s3_folder: str) -> None:
    if not s3_server.checks_signatures:
        pytest.skip(f"{s3_server.name} checks no signatures")
    stranger = s3_server.filesystem(secret="not the secret")

    with pytest.raises(PermissionError):
        stranger.pipe_file(f"{s3_folder}/mark", b"")


def test_the_keys_of_the_environment_are_enough(s3_server: S3Server, s3_folder: str) -> None:
    fs = s3_server.filesystem(key=None, secret=None)

    fs.pipe_file(f"{s3_folder}/mark", b"content")

    assert fs.ls(s3_folder) == [f"{s3_folder}/mark".removeprefix("s3://")]


def test_a_client_of_a_paused_server_times_out_and_one_of_a_resumed_server_does_not(
    s3_server: S3Server, s3_folder: str
) -> None:
    hasty = s3_server.filesystem(
        config_kwargs={"connect_timeout": 1, "read_timeout": 1, "retries": {"total_max_attempts": 1}}
    )
    hasty.retries = 1
    hasty.pipe_file(f"{s3_folder}/mark", b"content")

    s3_server.pause()
    try:
        with pytest.raises(OSError, match=r"[Tt]imeout"):
            hasty.cat_file(f"{s3_folder}/mark")
    finally:
        s3_server.resume()

    assert hasty.cat_file(f"{s3_folder}/mark") == b"content"


def test_objects_outlive_a_kill_of_the_gateway(s3_server: S3Server, s3_folder: str) -> None:
    if not s3_server.keeps_objects:
        pytest.skip(f"{s3_server.name} keeps its objects in the process that is killed")
    s3_server.filesystem().pipe_file(f"{s3_folder}/mark", b"content")

    s3_server.kill()
    s3_server.start()

    assert s3_server.filesystem().cat_file(f"{s3_folder}/mark") == b"content"
