"""The errors that callers treat differently. Every other error is a bug and keeps its traceback."""

import reprlib

MAX_SHOWN = 120  # characters of a value in an error message

# Out-of-memory errors whose class says nothing: torch's CPU allocator, cuBLAS, cuDNN, CUDA, Triton, the kernel.
OUT_OF_MEMORY_PHRASES = (
    "can't allocate memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDA error: out of memory",
    "Triton Error [CUDA]: out of memory",
    "Cannot allocate memory",
)


class InputError(ValueError):
    """An input of the user is wrong. The message has the rule, the value and what is allowed. Exit code 2."""


class JobFailure(RuntimeError):
    """The job cannot continue although its input is correct. Exit code 1. `advice` is what the user can do."""

    advice = "run the same command again to resume; committed images are kept"


class EngineFailedError(RuntimeError):
    """An engine raised while it rendered. Rendering each row alone finds out whether a row is the cause."""


class CheckpointError(InputError):
    """A checkpoint that cannot be used."""


class NoSuchFolder(CheckpointError):
    """There is no such folder, bucket, repository or revision."""


class CheckpointUnreachable(CheckpointError):
    """The store or the hub did not answer, or sent part of a file. A retry may help."""


class DeviceFullError(CheckpointError):
    """A model does not fit into the memory that is free. A retry may help: an actor that has ended frees it late."""


class OtherWeightsError(CheckpointError):
    """The checkpoint holds other weights than those the recipe was made with."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error means that memory ran out, on the GPU or on the host. Does not import torch."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError | OSError) and any(phrase in str(error) for phrase in OUT_OF_MEMORY_PHRASES)


def is_unicode(text: str) -> bool:
    """Whether a text can be written: Python also holds bytes that are not UTF-8, and half a character."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def one_line(text: str) -> str:
    """A text from outside for an error message: cut to a line, without characters that a terminal would act on."""
    plain = "".join(character if character.isprintable() else "?" for character in text[: MAX_SHOWN + 1])
    return plain if len(plain) <= MAX_SHOWN else plain[:MAX_SHOWN] + "..."


def reason_line(error: BaseException) -> str:
    """The first line of an error's text for a message, cut to a line; the error's type if it has no text."""
    return one_line(str(error).partition("\n")[0]) or type(error).__name__


def shown(value: object) -> str:
    """A parsed value from outside for an error message: its repr, cut to a line, however large or deep it is."""
    return one_line(_SHORT.repr(value))


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = MAX_SHOWN
