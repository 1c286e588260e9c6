"""Checkpoints at URLs: which files are read and downloaded, and when the cache is used."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from actors.checkpoint.open import fetch_checkpoint, open_checkpoint, open_vae, weights_digest
from actors.checkpoint.url import cache_root
from actors.errors import CheckpointError, CheckpointUnreachable, NoSuchFolder

ROOT = Path(__file__).parents[3]
TINY, FLOW = ROOT / "tests" / "data" / "janus-tiny", ROOT / "tests" / "data" / "janusflow-tiny"

# Two of these processes at once, on a file system that takes its time and writes down what it is asked to download.
# The files that a render reads, and two about the tokenizer that are examined before it.
NEEDED = [
    "config.json",
    "model.safetensors",
    "preprocessor_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
]
FETCH = """
import sys, time
import fsspec
from fsspec.implementations.local import LocalFileSystem

class SlowFileSystem(LocalFileSystem):
    protocol = ("slow",)

    def get_file(self, path, target, **kwargs):
        with open(sys.argv[2], "a") as log:
            log.write(path.rsplit("/", 1)[-1] + "\\n")
        time.sleep(0.3)
        super().get_file(path, target, **kwargs)

fsspec.register_implementation("slow", SlowFileSystem)
from actors.checkpoint.open import fetch_checkpoint, open_checkpoint
print(fetch_checkpoint(open_checkpoint(sys.argv[1])).path)
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("JANUS_BATCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def url() -> Iterator[str]:
    """janus-tiny in memory://, with additional files that no render reads."""
    url = f"memory://{uuid.uuid4().hex}/tiny"
    filesystem = upload(TINY, url)
    filesystem.pipe_file(f"{url}/pytorch_model.bin", b"the same weights once more")
    filesystem.pipe_file(f"{url}/README.md", b"about the model")
    yield url
    filesystem.rm(url, recursive=True)


def upload(folder: Path, url: str, **storage_options: object) -> fsspec.AbstractFileSystem:
    filesystem, root = fsspec.core.url_to_fs(url, **storage_options)
    for path in folder.rglob("*"):
        if path.is_file():
            filesystem.pipe_file(f"{root}/{path.relative_to(folder).as_posix()}", path.read_bytes())
    return filesystem


def fetch(url: str) -> Path:
    """The folder that a process which opens the URL now loads from."""
    return fetch_checkpoint(open_checkpoint(url)).path


def test_a_url_is_described_as_the_same_folder_on_disk_is(url: str, cache: Path) -> None:
    remote, local = open_checkpoint(url + "/"), open_checkpoint(str(TINY))
    for field in ("revision", "family", "layout", "prompt_format", "config", "files", "weight_files", "shape"):
        assert getattr(remote, field) == getattr(local, field)
    assert weights_digest(remote) == weights_digest(local)


def test_only_the_files_a_render_reads_are_downloaded(url: str, cache: Path) -> None:
    folder = fetch(url)
    assert folder.is_relative_to(cache)
    assert sorted(path.name for path in folder.iterdir()) == NEEDED
    assert all((folder / name).read_bytes() == (TINY / name).read_bytes() for name in os.listdir(folder))


def test_a_second_fetch_downloads_nothing(url: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = fetch(url)
    monkeypatch.setattr("fsspec.AbstractFileSystem.get_file", None)
    assert fetch(url) == first


def test_weights_changed_in_place_are_another_model(url: str, cache: Path) -> None:
    first, digest = fetch(url), weights_digest(open_checkpoint(url))
    weights = bytearray((TINY / "model.safetensors").read_bytes())
    weights[-1] ^= 1  # the same size
    fsspec.filesystem("memory").pipe_file(f"{url}/model.safetensors", bytes(weights))
    second = fetch(url)
    assert (first / "model.safetensors").read_bytes() != (second / "model.safetensors").read_bytes() == bytes(weights)
    assert weights_digest(open_checkpoint(url)) != digest


def test_a_store_without_content_marks_is_compared_by_content(
    url: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actors.checkpoint.url._CONTENT_MARKS", ())
    test_weights_changed_in_place_are_another_model(url, cache)
    assert not (cache / "sha256").exists()


def test_the_digest_of_a_remote_file_is_kept_for_the_next_process(
    url: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = weights_digest(open_checkpoint(url))
    monkeypatch.setattr("actors.checkpoint.url.UrlFolder._stream_sha256", None)
    assert weights_digest(open_checkpoint(url)) == digest


def test_two_processes_that_fetch_concurrently_download_once(cache: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = [sys.executable, "-c", FETCH, f"slow://{TINY}", str(log)]
    processes = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    folders = {process.communicate(timeout=120)[0].strip() for process in processes}
    assert len(folders) == 1
    assert sorted(log.read_text().split()) == NEEDED
    assert [path for path in (cache / "models").iterdir() if path.is_dir()] == [Path(folders.pop())]


def test_a_partial_download_is_not_used_as_a_model(url: str, cache: Path) -> None:
    folder = fetch(url)
    folder.rename(next(iter(folder.parent.glob("*.lock"))).with_suffix(".partial"))
    next(iter(folder.parent.glob("*.partial"))).joinpath("model.safetensors").write_bytes(b"half")
    assert (fetch(url) / "model.safetensors").read_bytes() == (TINY / "model.safetensors").read_bytes()
    assert not list(folder.parent.glob("*.partial"))


def test_a_file_that_arrives_incomplete_is_not_kept(url: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(_: object, path: str, target: str) -> None:
        Path(target).write_bytes(b"half")

    message = r"config.json of memory://\S+ arrived with 4 bytes instead of 1747"
    with monkeypatch.context() as patch:
        patch.setattr("fsspec.AbstractFileSystem.get_file", cut)
        with pytest.raises(CheckpointUnreachable, match=message):
            fetch(url)
    assert (fetch(url) / "config.json").stat().st_size == 1747


def test_a_cache_that_cannot_be_written_is_named_with_its_variable(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("JANUS_BATCH_CACHE", str(tmp_path / "file"))
    message = f"the cache {tmp_path}/file cannot be written .*; JANUS_BATCH_CACHE names another folder"
    with pytest.raises(CheckpointError, match=message):
        fetch(url)
    with pytest.raises(CheckpointError, match=message):
        weights_digest(open_checkpoint(url))


def test_a_user_without_a_home_folder_is_asked_for_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JANUS_BATCH_CACHE", raising=False)
    monkeypatch.setenv("HOME", "~")  # as Python has it for a user who is not in the system's list
    with pytest.raises(CheckpointError, match="this user has no home folder for the cache; JANUS_BATCH_CACHE names"):
        cache_root()


def test_the_autoencoder_inside_a_url_is_found_and_fetched_alone(cache: Path) -> None:
    url = f"memory://{uuid.uuid4().hex}/flow"
    upload(FLOW, url)
    vae = open_vae(None, open_checkpoint(url))
    assert vae.name == f"{url}/vae"
    folder = fetch_checkpoint(vae).path
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "diffusion_pytorch_model.safetensors"]
    assert weights_digest(vae) == weights_digest(open_vae(None, open_checkpoint(str(FLOW))))


def test_a_file_url_is_read_in_place(cache: Path) -> None:
    assert open_checkpoint(f"file://{TINY}").weight_files == ("model.safetensors",)
    assert fetch(f"file://{TINY}") == TINY
    assert not cache.exists()


def test_a_checkpoint_on_s3_is_described_hashed_and_fetched(s3_folder: str, s3_server, cache: Path) -> None:
    options = s3_server.storage_options
    with pytest.raises(NoSuchFolder, match=re.escape(f"there is no folder {s3_folder}/tiny")):
        open_checkpoint(f"{s3_folder}/tiny", storage_options=options)
    upload(TINY, f"{s3_folder}/tiny", **options)
    checkpoint = open_checkpoint(f"{s3_folder}/tiny", storage_options=options)
    digest = hashlib.sha256((TINY / "model.safetensors").read_bytes()).hexdigest()
    expected = hashlib.sha256(f"{digest}  model.safetensors\n".encode()).hexdigest()
    assert weights_digest(checkpoint) == expected
    folder = fetch_checkpoint(checkpoint).path
    assert json.loads((folder / "config.json").read_text()) == checkpoint.config
    assert (folder / "model.safetensors").read_bytes() == (TINY / "model.safetensors").read_bytes()


def test_missing_credentials_are_not_a_store_that_does_not_answer(s3_folder: str, s3_server, monkeypatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    options = {**s3_server.storage_options, "skip_instance_cache": True}
    with pytest.raises(CheckpointError, match="cannot be opened: Unable to locate credentials") as caught:
        open_checkpoint(f"{s3_folder}/tiny", storage_options=options)
    assert type(caught.value) is CheckpointError


def test_a_store_that_does_not_answer_is_unreachable_and_not_a_wrong_checkpoint(aws_environment: None) -> None:
    options = {"endpoint_url": "http://127.0.0.1:9", "config_kwargs": {"retries": {"max_attempts": 0}}}
    with pytest.raises(CheckpointUnreachable, match="s3://bucket/tiny cannot be read now: Could not connect"):
        open_checkpoint("s3://bucket/tiny", storage_options=options)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("memory://nothing/here", "there is no folder memory://nothing/here"),
        ("nope://bucket/tiny", "nope://bucket/tiny cannot be opened: Protocol not known: nope"),
    ],
)
def test_a_url_without_a_folder_is_refused(url: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=f"^{re.escape(message)}$"):
        open_checkpoint(url)


def test_a_revision_of_a_url_is_refused(url: str) -> None:
    message = r"model.revision needs a hub id \(organization/name\), which .* is not; got 'main'"
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(url, revision="main")
