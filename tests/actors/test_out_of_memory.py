"""Which errors mean that memory ran out: torch's own, raised by torch, and no others."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from actors.out_of_memory import is_out_of_memory

PETABYTE = 2**50


def test_what_torch_and_numpy_raise_when_the_host_has_no_more_is_known() -> None:
    with pytest.raises(RuntimeError) as of_torch:
        torch.empty(PETABYTE, dtype=torch.uint8)
    with pytest.raises(MemoryError) as of_numpy:
        np.empty(PETABYTE, np.uint8)

    assert is_out_of_memory(of_torch.value)
    assert is_out_of_memory(of_numpy.value)


def test_what_torch_raises_when_a_gpu_has_no_more_is_known() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"))
    assert is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"))


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        ValueError("can't allocate memory for this prompt"),
        OSError(28, "No space left on device"),
    ],
)
def test_other_errors_are_not(error: Exception) -> None:
    assert not is_out_of_memory(error)
