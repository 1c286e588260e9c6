"""What a machine with a GPU must have before the first kernel is compiled there."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from actors.errors import InputError

LEAST_CAPABILITY = (8, 0)  # Ampere: older GPUs have too little shared memory for a tile, and no FlashAttention


@dataclass(frozen=True, kw_only=True, slots=True)
class Toolchain:
    """What was found on this machine: Triton, and the C compiler and Python headers that Triton compiles with."""

    has_triton: bool
    has_compiler: bool
    has_python_headers: bool


def find_toolchain() -> Toolchain:
    """Look for the tools where Triton does: `$CC`, then gcc and clang on the PATH."""
    return Toolchain(
        has_triton=importlib.util.find_spec("triton") is not None,
        has_compiler=any(os.environ.get("CC") or shutil.which(name) for name in ("gcc", "clang")),
        has_python_headers=Path(_include_folder(), "Python.h").is_file(),
    )


def _include_folder() -> str:
    """Debian's own Python has a scheme with another folder, which its headers may not be in."""
    scheme = sysconfig.get_default_scheme()
    return sysconfig.get_path("include", "posix_prefix" if scheme == "posix_local" else scheme)


def check_capability(name: str, capability: tuple[int, int]) -> None:
    """Raise InputError for a GPU that is too old for the kernels."""
    if capability < LEAST_CAPABILITY:
        least, found = (".".join(map(str, version)) for version in (LEAST_CAPABILITY, capability))
        raise InputError(
            f"A GPU renders with kernels for compute capability {least} (Ampere) or newer, and {name} has {found}. Use "
            "a newer GPU, or hide this one with CUDA_VISIBLE_DEVICES= to render on the CPU"
        )


def check_toolchain(found: Toolchain) -> None:
    """Raise InputError that says what to install, unless kernels can be compiled."""
    missing = [
        (found.has_triton, "Triton (pip install triton)"),
        (found.has_compiler, "a C compiler (apt-get install gcc, or set CC)"),
        (found.has_python_headers, "Python's headers (apt-get install python3-dev)"),
    ]
    needed = [name for is_there, name in missing if not is_there]
    if needed:
        raise InputError(
            f"A GPU renders with Triton kernels, which are compiled at run time. This machine lacks "
            f"{' and '.join(needed)}. Install it on every GPU node, or hide the GPU with CUDA_VISIBLE_DEVICES= "
            "to render on the CPU"
        )
