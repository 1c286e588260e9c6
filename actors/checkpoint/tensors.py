"""One weight file on disk, .safetensors or .bin. Opening it reads the shapes; values are read one tensor at a time."""

from __future__ import annotations

import errno
import re
import zipfile
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, cast

import torch

from actors.errors import CheckpointError, one_line

# What `weights_only` says of a Python object, with advice to trust it.
_OBJECT = re.compile(r"Unsupported global: GLOBAL ([\w.]+)")

READ_DTYPES = ("bfloat16", "float16", "float32", "float64")
_SAFETENSORS_DTYPES = {
    **{"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"},
    **{"I8": "int8", "U8": "uint8", "I32": "int32", "I64": "int64", "BOOL": "bool"},
    **{"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"},
}


# What training wraps around a model puts its own name into those of the tensors: DeepSpeed and DistributedDataParallel
# (module), torch.compile (_orig_mod), FSDP and activation checkpointing.
_WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")


def without_wrappers(name: str) -> str:
    """A tensor's name without the names of what training wrapped around the model and its parts."""
    return _WRAPPERS.sub("", name)


class TensorFile(ABC):
    """`shapes` maps the name of every tensor to its shape, `dtypes` to the name of its dtype (bfloat16)."""

    path: Path
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]

    def read(self, name: str) -> torch.Tensor:
        """A tensor on the CPU, in its stored dtype. Raises CheckpointError for whole numbers and 8-bit floats."""
        self.check_dtype(name)
        return self._read(name)

    def check_dtype(self, name: str) -> None:
        """Raise CheckpointError for a tensor whose dtype is not read."""
        if self.dtypes[name] not in READ_DTYPES:
            raise CheckpointError(
                f"{one_line(name)} in {self.path} is stored as {self.dtypes[name]}, and quantized weights cannot be "
                f"read; a tensor must be {', '.join(READ_DTYPES[:-1])} or {READ_DTYPES[-1]}"
            )

    @abstractmethod
    def _read(self, name: str) -> torch.Tensor: ...


def open_tensor_file(path: Path) -> TensorFile:
    """Raises CheckpointError for a file that is damaged, cut short, or contains anything but tensors."""
    return _SafetensorsFile(path) if path.suffix == ".safetensors" else _BinFile(path)


class _SafetensorsFile(TensorFile):
    def __init__(self, path: Path) -> None:
        from safetensors import SafetensorError, safe_open

        self.path = path
        try:
            self._file = cast("Any", safe_open(path, framework="pt", device="cpu"))  # its methods have no types
        except SafetensorError as error:
            raise CheckpointError(f"{path} is damaged or cut short ({path.stat().st_size} bytes): {error}") from error
        slices = {name: self._file.get_slice(name) for name in self._file.keys()}  # noqa: SIM118
        self.shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
        kinds = {name: part.get_dtype() for name, part in slices.items()}
        self.dtypes = {name: _SAFETENSORS_DTYPES.get(kind, kind) for name, kind in kinds.items()}

    def _read(self, name: str) -> torch.Tensor:
        return cast("torch.Tensor", self._file.get_tensor(name))


class _BinFile(TensorFile):
    """A file of `torch.save`, mapped into memory so that only what is read costs anything. No code in it is run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            # Files from before torch 1.6 are not zip archives and cannot be mapped.
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise  # a fault of the disk; EINVAL: torch seeks before the start of an archive that is cut short
            raise _damaged(path, error) from error
        except Exception as error:  # torch raises almost every kind for a file that it did not write
            raise _damaged(path, error) from error
        content = _state_dict_of(content)
        if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
            raise CheckpointError(f"{path} must contain a plain dictionary of tensors")
        for name, tensor in content.items():
            if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
                raise CheckpointError(
                    f"{one_line(str(name))} in {path} must be stored whole; it repeats a smaller tensor"
                )
        self._tensors = content
        self.shapes = {name: tuple(tensor.shape) for name, tensor in content.items()}
        self.dtypes = {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in content.items()}

    def _read(self, name: str) -> torch.Tensor:
        return cast("torch.Tensor", self._tensors[name])


def _state_dict_of(content: object) -> object:
    """The tensors in what a training program saved: alone, or next to its own state under one of the usual keys."""
    if isinstance(content, dict):
        for key in ("state_dict", "model_state_dict", "module", "model"):
            if isinstance(content.get(key), dict):
                return content[key]
    return content


def _damaged(path: Path, error: Exception) -> CheckpointError:
    if found := _OBJECT.search(str(error)):
        return CheckpointError(
            f"{path} holds Python objects, such as {one_line(found[1])}, and no code in a file is run; save the "
            "model's state_dict alone"
        )
    reason = one_line(f"{type(error).__name__} {next(iter(str(error).splitlines()), '')}".rstrip())
    size = path.stat().st_size
    return CheckpointError(f"{path} is damaged, cut short ({size} bytes) or contains more than tensors: {reason}")
