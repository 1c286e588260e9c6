"""Damaged checkpoint files, by chance but always the same: each is loaded or refused in one short sentence."""

from __future__ import annotations

import copy
import json
import random
import struct
from pathlib import Path
from typing import Any

import pytest
import torch

from actors.checkpoint.doctor import check_tokenizer
from actors.checkpoint.open import fetch_checkpoint, open_checkpoint, open_vae
from actors.errors import InputError
from actors.janus import network as janus
from actors.janusflow import network as janusflow
from actors.janusflow.decoder import VAE
from tests.support.checkpoints import FLOW, TINY

NUM_CASES = 16  # of each file
VAE_FILES = ("vae/config.json", "vae/diffusion_pytorch_model.safetensors")
FILES = [
    *((TINY, name) for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")),
    *((FLOW, name) for name in ("config.json", "model.safetensors", *VAE_FILES)),
]
VALUES: list[Any] = [
    *(None, True, 0, -1, 1, 0.5, 10**9, 10**12, 10**400, float("nan"), float("inf")),
    *("", "x", "1" * 1000, [], [None], ["a"], [[[]]], {}, {"a": 1}),
]
CONTENTS = [b"", b"null", b"[]", b"3", b"<html>", b"[" * 100_000, b"version https://git-lfs", b"\xff\xfe{\0}\0"]


@pytest.mark.parametrize(("source", "name"), FILES)
def test_a_damaged_file_is_read_or_refused_in_one_sentence(source: Path, name: str, tmp_path: Path) -> None:
    folder = linked(source, tmp_path / "model")
    data = (source / name).read_bytes()
    refusals = []
    for seed in range(NUM_CASES):
        (folder / name).unlink()
        (folder / name).write_bytes(damaged(data, name, random.Random(f"{name} {seed}")))
        try:
            load(folder)
        except InputError as error:
            refusals.append(str(error))
    assert [message for message in refusals if "\n" in message or len(message) > 1000] == []
    if name not in ("tokenizer_config.json", "special_tokens_map.json"):  # no render needs them
        assert len(refusals) > NUM_CASES // 4


def load(folder: Path) -> None:
    """Everything of a checkpoint that comes from its files, without a prediction."""
    checkpoint = fetch_checkpoint(open_checkpoint(str(folder)))
    list(check_tokenizer(checkpoint))
    network = janus if checkpoint.family == "janus" else janusflow
    network.read_weights(checkpoint, dtype=torch.float32, device="cpu")
    if checkpoint.family == "janusflow":
        VAE(fetch_checkpoint(open_vae(None, checkpoint)), dtype=torch.float32, device=torch.device("cpu"))


def linked(source: Path, folder: Path) -> Path:
    """A folder of links to the files of another."""
    for path in source.rglob("*"):
        if path.is_file():
            link = folder / path.relative_to(source)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path)
    return folder


def damaged(data: bytes, name: str, rng: random.Random) -> bytes:
    """The file with one fault: in its text, in a value of its JSON, or in the header of its tensors."""
    if not name.endswith(".safetensors"):
        return rng.choice((damaged_text, damaged_value, damaged_value))(data, rng)
    size = struct.unpack("<Q", data[:8])[0]
    header, tensors = data[8 : 8 + size], data[8 + size :]
    if rng.random() < 0.3:
        return struct.pack("<Q", rng.choice((0, 1, size - 1, size + 1, 2**60, 2**64 - 1))) + header + tensors
    header = rng.choice((damaged_text, damaged_value))(header, rng)
    return struct.pack("<Q", len(header)) + header + tensors


def damaged_text(data: bytes, rng: random.Random) -> bytes:
    position = rng.randrange(len(data))
    replaced = data[:position] + rng.randbytes(1) + data[position + 1 :]
    return rng.choice((data[:position], replaced, b"\xef\xbb\xbf" + data, rng.choice(CONTENTS)))


def damaged_value(data: bytes, rng: random.Random) -> bytes:
    """Another value, or none, somewhere in a JSON object; nearer the top more often."""
    value = json.loads(data)
    parent, key = value, rng.choice(list(value))
    while isinstance(parent[key], dict | list) and parent[key] and rng.random() < 0.7:
        parent = parent[key]
        key = rng.choice(list(parent)) if isinstance(parent, dict) else rng.randrange(len(parent))
    if rng.random() < 0.2:
        del parent[key]
    else:
        parent[key] = copy.deepcopy(rng.choice(VALUES))
    return json.dumps(value).encode()
