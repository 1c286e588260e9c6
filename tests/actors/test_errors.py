"""Which errors mean that memory ran out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from actors.errors import is_out_of_memory

PETABYTE = 2**50


@pytest.mark.parametrize(
    "allocate", [lambda: torch.empty(PETABYTE, dtype=torch.uint8), lambda: np.empty(PETABYTE, np.uint8)]
)
def test_an_allocation_that_fails_on_the_host_is_out_of_memory(allocate: Callable[[], object]) -> None:
    with pytest.raises((RuntimeError, MemoryError)) as failure:
        allocate()

    assert is_out_of_memory(failure.value)


def test_an_allocation_that_fails_on_a_gpu_is_out_of_memory() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"))
    assert is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"))
    assert is_out_of_memory(RuntimeError("Triton Error [CUDA]: out of memory"))


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"),
        ValueError("can't allocate memory for this prompt"),
        OSError(28, "No space left on device"),
    ],
)
def test_another_error_is_not_out_of_memory(error: Exception) -> None:
    assert not is_out_of_memory(error)
