"""A tokenizer.json that would use up the memory is refused before anything is tokenized."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from actors.checkpoint.folder import LocalFolder
from actors.checkpoint.tokenizer_file import check_tokenizer_file
from actors.errors import CheckpointError
from tests.support.checkpoints import TINY


def replace(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


def sequence(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "normalizers": list(parts)}


def folder_with(normalizer: object, tmp_path: Path) -> LocalFolder:
    folder = shutil.copytree(TINY, tmp_path / "tiny")
    fields = json.loads((TINY / "tokenizer.json").read_text(encoding="utf-8"))
    (folder / "tokenizer.json").write_text(json.dumps({**fields, "normalizer": normalizer}), encoding="utf-8")
    return LocalFolder(folder, "tiny")


@pytest.mark.parametrize(
    "normalizer",
    [
        None,
        {"type": "NFKC"},
        sequence({"type": "Prepend", "prepend": "_"}, replace({"String": " "}, "\u2581")),
        sequence(*[replace({"String": "aa"}, "a")] * 40),
        sequence(*[{"type": "NFC"}] * 40),
    ],
)
def test_normalizers_of_published_models_are_accepted(normalizer: object, tmp_path: Path) -> None:
    check_tokenizer_file(folder_with(normalizer, tmp_path))


@pytest.mark.parametrize(
    "normalizer",
    [
        sequence(*[replace({"String": "a"}, "a" * 10)] * 40),
        sequence(*[replace({"Regex": ""}, "a")] * 40),
        sequence(sequence(*[replace({"String": "a"}, "aa")] * 4), sequence(*[replace({"String": "a"}, "aa")] * 4)),
        replace({"String": "a"}, "a" * 1000),
        sequence(*[{"type": "Precompiled", "precompiled_charsmap": ""}] * 3),
    ],
)
def test_a_normalizer_that_multiplies_a_text_is_refused(normalizer: object, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="must make a text at most 64 times as long, it makes one"):
        check_tokenizer_file(folder_with(normalizer, tmp_path))
