"""Storage: files are written whole or not at all, and one of many creators wins."""

from __future__ import annotations

import functools
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import s3fs

from tests.support.servers.s3 import S3Server
from tests.support.toy_job import bytes_of
from workflows.storage import store as storage_module
from workflows.storage.errors import StorageFailure
from workflows.storage.store import Storage

NUM_RACERS = 8


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.s3)])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """An empty folder, once on the local disk and once on S3."""
    if request.param == "local":
        return Storage(f"{tmp_path}/out")
    server: S3Server = request.getfixturevalue("s3_server")
    return Storage(request.getfixturevalue("s3_folder"), server.storage_options)


def test_a_written_file_is_read_back(storage: Storage) -> None:
    storage.write("images/shard/a.png", b"first")
    storage.write("images/shard/a.png", b"second")

    assert storage.read("images/shard/a.png") == b"second"
    assert storage.exists("images/shard/a.png")
    assert not storage.exists("images/shard/b.png")


def test_the_second_creator_loses_and_the_first_content_stays(storage: Storage) -> None:
    assert storage.create("manifest/shard.parquet", b"first")
    assert not storage.create("manifest/shard.parquet", b"second")
    assert storage.read("manifest/shard.parquet") == b"first"


def test_creating_the_same_bytes_again_is_a_success(storage: Storage) -> None:
    """As when the answer to a successful PUT is lost and the client library repeats it."""
    assert storage.create("job.json", b"the same")
    assert storage.create("job.json", b"the same")


def test_a_large_local_file_is_copied_once_and_leaves_no_draft(storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "first").write_bytes(b"first" * 2**20)
    (tmp_path / "second").write_bytes(b"second")

    storage.put_new("prompts/rows.parquet", str(tmp_path / "first"))
    storage.put_new("prompts/rows.parquet", str(tmp_path / "second"))

    assert storage.read("prompts/rows.parquet") == b"first" * 2**20
    assert storage.names("prompts") == ["rows.parquet"]


def test_one_of_many_racing_creators_wins_and_its_content_stays(storage: Storage) -> None:
    for round_ in range(3):
        start = threading.Barrier(NUM_RACERS)

        def race(racer: int, name: str = f"mark-{round_}", start: threading.Barrier = start) -> bool:
            start.wait()
            return storage.create(name, b"racer %d" % racer)

        with ThreadPoolExecutor(NUM_RACERS) as threads:
            won = list(threads.map(race, range(NUM_RACERS)))

        assert won.count(True) == 1
        assert storage.read(f"mark-{round_}") == b"racer %d" % won.index(True)


def test_a_file_put_alongside_another_leaves_it_as_it_was(storage: Storage) -> None:
    assert storage.put_alongside("images/s/a.png", b"first") == "images/s/a.png"
    assert storage.put_alongside("images/s/a.png", b"first") == "images/s/a.png"
    other = storage.put_alongside("images/s/a.png", b"second")

    assert other == "images/s/a.16367aac.png"  # printf second | sha256sum
    assert storage.put_alongside("images/s/a.png", b"second") == other
    assert storage.read("images/s/a.png") == b"first"
    assert storage.read(other) == b"second"
    assert storage.names("images/s") == ["a.16367aac.png", "a.png"]


def test_a_file_too_large_for_one_put_gets_its_hash_in_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_module, "MAX_CREATE_BYTES", 5)
    storage = Storage(str(tmp_path))

    names = [storage.put_alongside("images/s.tar", data) for data in (b"first.", b"second")]

    assert bytes_of(tmp_path) == dict(zip(names, (b"first.", b"second"), strict=True))


def test_names_are_those_of_the_files_directly_in_a_folder(storage: Storage) -> None:
    for name in ("manifest/b.parquet", "manifest/a.parquet", "manifest/sub/c.parquet", "job.json"):
        storage.write(name, b"")

    assert storage.names("manifest") == ["a.parquet", "b.parquet"]
    assert storage.names("") == ["job.json"]
    assert storage.names("nothing") == []


def test_a_listing_shows_the_files_that_another_process_wrote_since(storage: Storage) -> None:
    other = Storage(storage.url, {**storage.options, "use_listings_cache": True} if storage.options else {})
    storage.write("manifest/a.parquet", b"")
    assert storage.names("manifest") == ["a.parquet"]  # and the client keeps the listing

    other.write("manifest/b.parquet", b"")
    assert storage.exists("manifest/b.parquet")
    assert storage.names("manifest") == ["a.parquet", "b.parquet"]

    other.write("manifest/c.parquet", b"")
    assert storage.walk("manifest") == {f"manifest/{name}.parquet": 0 for name in "abc"}
    other.write("manifest/d.parquet", b"")
    assert storage.names("manifest") == [f"{name}.parquet" for name in "abcd"]


def test_a_walk_finds_files_at_any_depth_with_their_sizes(storage: Storage) -> None:
    storage.write("images/s1/a.png", b"12345")
    storage.write("images/s2.tar", b"123")

    assert storage.walk("images") == {"images/s1/a.png": 5, "images/s2.tar": 3}
    assert storage.walk("nothing") == {}


def test_removing_a_missing_file_is_no_error(storage: Storage) -> None:
    storage.write("_SUCCESS", b"")
    storage.remove("_SUCCESS")
    storage.remove("_SUCCESS")

    assert not storage.exists("_SUCCESS")


@pytest.mark.parametrize(
    "name", ["ünï 🦊_0.png", "a b+c&d=e_0.png", "100%25_0.png", "~x_0.png", "[a]_0.png", "*_0.png"]
)
def test_files_can_have_odd_names(storage: Storage, name: str) -> None:
    storage.write(f"images/s/{name}", b"image")

    assert storage.read(f"images/s/{name}") == b"image"
    assert storage.names("images/s") == [name]
    assert not storage.create(f"images/s/{name}", b"other")


def test_an_empty_file_is_created_once(storage: Storage) -> None:
    assert storage.create("mark", b"")
    assert not storage.create("mark", b"content")
    assert storage.read("mark") == b""


# ---- the local disk --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("put", [Storage.write, Storage.create])
def test_a_failed_write_leaves_neither_a_draft_nor_a_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, put) -> None:
    storage = Storage(str(tmp_path))
    storage.write("a/old", b"old")

    def full_disk(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(StorageFailure, match=rf"{tmp_path} is full, a/new could not be written: .*No space left"):
        put(storage, "a/new", b"new")
    with pytest.raises(StorageFailure, match=r"a/old could not be written: .*No space left"):
        put(storage, "a/old", b"new")

    assert bytes_of(tmp_path) == {"a/old": b"old"}


def test_a_lost_race_leaves_no_draft(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    storage.create("a", b"first")
    storage.create("a", b"second")

    assert bytes_of(tmp_path) == {"a": b"first"}


def test_a_reader_never_sees_a_part_of_a_file(tmp_path: Path) -> None:
    storage, contents = Storage(str(tmp_path)), [bytes([n]) * 200_000 for n in (1, 2)]
    storage.write("a", contents[0])
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            for content in contents:
                storage.write("a", content)

    with ThreadPoolExecutor(1) as threads:
        writing = threads.submit(write)
        seen = {storage.read("a") for _ in range(300)}
        stop.set()
        writing.result()

    assert seen <= set(contents)


# ---- S3 --------------------------------------------------------------------------------------------------------------


def test_a_large_file_is_created_in_one_put(
    s3_server: S3Server, s3_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """s3fs splits files of more than 100 MiB (here 10), and some stores ignore the condition on a multipart upload."""
    in_small_parts = functools.partialmethod(s3fs.S3FileSystem._pipe_file, chunksize=5 * 2**20)
    monkeypatch.setattr(s3fs.S3FileSystem, "_pipe_file", in_small_parts)
    storage = Storage(s3_folder, {**s3_server.storage_options, "default_fill_cache": False})  # a client of its own
    size = 11 * 2**20

    assert storage.create("images/s.tar", b"1" * size)
    assert not storage.create("images/s.tar", b"2" * size)
    assert storage.read("images/s.tar") == b"1" * size


def test_create_on_another_object_store_has_one_winner_too() -> None:
    """With fsspec's memory file system."""
    storage = Storage("memory://bucket/out")

    assert storage.create("a", b"first")
    assert not storage.create("a", b"second")
    assert storage.read("a") == b"first"
    storage.fs.rm("/bucket", recursive=True)
