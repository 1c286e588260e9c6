"""One weight file on disk: its shapes and values, and files that cannot be read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from actors.checkpoint.tensors import open_tensor_file
from actors.errors import CheckpointError

TENSORS = {"a": torch.arange(600.0).reshape(20, 30), "b.c": torch.ones(7, dtype=torch.bfloat16)}


def write(tmp_path: Path, ending: str, tensors: dict[str, torch.Tensor] = TENSORS) -> Path:
    path = tmp_path / f"model.{ending}"
    save_file(tensors, path) if ending == "safetensors" else torch.save(tensors, path)
    return path


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_shapes_are_known_and_values_are_read_as_stored(ending: str, tmp_path: Path) -> None:
    file = open_tensor_file(write(tmp_path, ending))
    assert file.shapes == {"a": (20, 30), "b.c": (7,)}
    for name, tensor in TENSORS.items():
        assert file.read(name).dtype == tensor.dtype
        assert torch.equal(file.read(name), tensor)


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_quantized_values_are_refused_and_the_rest_of_the_file_is_read(
    ending: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    file = open_tensor_file(write(tmp_path, ending, {**TENSORS, "q": torch.zeros(4).to(dtype)}))
    assert torch.equal(file.read("a"), TENSORS["a"])
    name = str(dtype).removeprefix("torch.")
    message = f"q in .* is stored as {name}, and quantized weights cannot be read; a tensor must be bfloat16"
    with pytest.raises(CheckpointError, match=message):
        file.read("q")


@pytest.mark.parametrize("as_zip", [True, False], ids=["zip", "before torch 1.6"])
@pytest.mark.parametrize("part", [0.5, 0.99])
def test_a_bin_file_cut_short_is_refused(part: float, as_zip: bool, tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    torch.save(TENSORS, path, _use_new_zipfile_serialization=as_zip)
    assert_refused_when_cut(path, part)


@pytest.mark.parametrize("part", [0.01, 0.5, 0.99])
def test_a_safetensors_file_cut_short_is_refused(part: float, tmp_path: Path) -> None:
    assert_refused_when_cut(write(tmp_path, "safetensors"), part)


def assert_refused_when_cut(path: Path, part: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])
    message = f"^{re.escape(str(path))} is damaged.* cut short .*{path.stat().st_size} bytes"
    with pytest.raises(CheckpointError, match=message):
        open_tensor_file(path)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize(
    "content", [b"<html>not found</html>" * 100, b"hello" * 100, b"\x80\x02.", b"PK\x03\x04" + bytes(100), bytes(1000)]
)
def test_a_file_of_something_else_is_refused(content: bytes, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{name} is damaged|must contain a plain dictionary"):
        open_tensor_file(tmp_path / name)


@pytest.mark.parametrize("size", [0, 1, 2**40, 2**60, 2**64 - 1])
def test_a_header_of_an_impossible_length_is_refused(size: int, tmp_path: Path) -> None:
    path = write(tmp_path, "safetensors")
    path.write_bytes(size.to_bytes(8, "little") + path.read_bytes()[8:])
    with pytest.raises(CheckpointError, match="is damaged or cut short"):
        open_tensor_file(path)


def test_a_small_tensor_that_is_repeated_to_a_huge_one_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "bin", {"a": torch.zeros(1).expand(10**12)})
    with pytest.raises(CheckpointError, match=r"a in .* must be stored whole; it repeats a smaller tensor"):
        open_tensor_file(path)


def test_a_bin_file_runs_no_code(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple:
            return (tmp_path.joinpath("was_run").touch, ())

    path = tmp_path / "pytorch_model.bin"
    torch.save({**TENSORS, "payload": Payload()}, path)
    with pytest.raises(
        CheckpointError,
        match=r"pytorch_model.bin holds Python objects, such as getattr, and no code .* state_dict alone$",
    ):
        open_tensor_file(path)
    assert not (tmp_path / "was_run").exists()


@pytest.mark.parametrize("content", [{"tensors": TENSORS, "epoch": 3}, {"state_dict": {"a": 1}}, [torch.zeros(1)]])
def test_a_bin_file_of_more_than_named_tensors_is_refused(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="must contain a plain dictionary of tensors"):
        open_tensor_file(tmp_path / "pytorch_model.bin")
