"""A folder on this machine's disk, and entries of it that are no files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from actors.checkpoint.open import open_checkpoint
from actors.errors import CheckpointError
from tests.support.checkpoints import TINY


def link_to_itself(path: Path) -> None:
    path.symlink_to(path.name)


def dangling_link(path: Path) -> None:
    path.symlink_to("../nothing")


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (link_to_itself, "is a link that leads nowhere"),
        (dangling_link, "is a link that leads nowhere"),
        (os.mkfifo, "is a pipe, a socket or a device"),
        (Path.mkdir, "is a folder"),
    ],
)
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"])
def test_an_entry_that_is_no_file_is_named(make: Callable[[Path], None], fault: str, name: str, tmp_path: Path) -> None:
    folder = shutil.copytree(TINY, tmp_path / "tiny")
    (folder / name).unlink()
    make(folder / name)

    with pytest.raises(CheckpointError, match=f"{name} of .* must be a file; it {fault}$"):
        open_checkpoint(str(folder))


def test_entries_that_no_render_reads_are_left_alone(tmp_path: Path) -> None:
    folder = shutil.copytree(TINY, tmp_path / "tiny")
    link_to_itself(folder / "pytorch_model.bin")
    os.mkfifo(folder / "notes.json")

    assert open_checkpoint(str(folder)).weight_files == ("model.safetensors",)


def test_a_link_to_a_file_is_a_file(tmp_path: Path) -> None:
    folder = shutil.copytree(TINY, tmp_path / "tiny")
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to(TINY / "config.json")

    assert open_checkpoint(str(folder)).family == "janus"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    folder = shutil.copytree(TINY, tmp_path / "tiny")
    (folder / "config.json").chmod(0)

    with pytest.raises(CheckpointError, match=r"config.json cannot be read: Permission denied"):
        open_checkpoint(str(folder))
