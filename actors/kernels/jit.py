"""Triton, imported when the first kernel runs: a machine without a GPU needs none."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any


class Kernel:
    """A function in Triton's language; `kernel[grid](...)` compiles it on first use and launches it.

    Inside, `tl` is `triton.language`. Numbers are not specialized: a kernel is compiled once for each dtype and each
    `tl.constexpr`, never again for another number of rows. Products and sums are fused, whatever Triton's default is,
    which its versions and an environment variable change.
    """

    def __init__(self, function: Callable[..., None]) -> None:
        self.function = function

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return functools.partial(self.compiled[grid], enable_fp_fusion=True)

    @functools.cached_property
    def compiled(self) -> Any:
        """Triton's function, not compiled for any arguments yet."""
        import triton
        import triton.language

        self.function.__globals__["tl"] = triton.language
        numbers = [
            name
            for name, parameter in inspect.signature(self.function).parameters.items()
            if not name.endswith("_ptr") and parameter.annotation is parameter.empty
        ]
        return triton.jit(self.function, do_not_specialize=numbers)


def power_of_two(size: int) -> int:
    """The smallest power of two that is at least `size`: the length of a Triton block that holds it."""
    return 1 << (size - 1).bit_length()


def ceil_div(size: int, part: int) -> int:
    """Parts of length `part` that cover `size`."""
    return -(-size // part)
