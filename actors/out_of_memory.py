"""Whether an error says that memory ran out, on a GPU or on the host. Torch need not be there to tell."""

from __future__ import annotations

# Of errors that share their class with others: torch's CPU allocator, cuBLAS and cuDNN, the CUDA runtime, the kernel.
PHRASES = (
    "can't allocate memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDA error: out of memory",
    "Cannot allocate memory",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether fewer images at once may go through: MemoryError, torch.OutOfMemoryError, or their kin by their text."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError | OSError) and any(phrase in str(error) for phrase in PHRASES)
