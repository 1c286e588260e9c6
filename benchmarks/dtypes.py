"""Measures the effect of the dtype on a Janus model's codes and images, on held-out prompts with the same seeds.

    python -m benchmarks.dtypes [janus-shapes] [--prompts N] [--images N]

`same` is the share of images with exactly the codes of float32. `until` is the median number of codes before the first
difference. The judge of `examples/shapes` decides which images are right; the other columns are means of the manifest's
statistics. On a CPU without bfloat16 instructions, bfloat16 computes in float32 with the rounded numbers.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cfg_curve import held_out_scenes, point_of, render_scenes
from benchmarks.planning import provenance

DTYPES = ("float32", "bfloat16")
CFG_WEIGHT = 5.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", nargs="?", default="janus-shapes", help="(default: %(default)s)")
    parser.add_argument("--prompts", type=int, default=100, help="of one shape, and of two (default: %(default)s)")
    parser.add_argument("--images", type=int, default=2, help="images per prompt (default: %(default)s)")
    arguments = parser.parse_args()
    scenes = held_out_scenes(arguments.prompts)
    lines = [
        "| dtype | same | until | one shape right | two shapes right | diversity | saturation | contrast | clipped |",
        "|:------|-----:|------:|----------------:|-----------------:|----------:|-----------:|---------:|--------:|",
    ]
    codes_of_float32: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as folder:
        for dtype in DTYPES:
            model = {"checkpoint": arguments.checkpoint, "dtype": dtype}
            rows, pixels = render_scenes(model, scenes, [CFG_WEIGHT], arguments.images, Path(folder) / dtype)
            codes_of_float32 = codes_of_float32 or codes_of(rows)
            same, until = compare(codes_of_float32, codes_of(rows))
            p = point_of(dtype, CFG_WEIGHT, rows, pixels, scenes)
            lines.append(
                f"| {dtype} | {same:.1%} | {until:g} | {p.single:.1%} | {p.pair:.1%} | {p.diversity:.3f} "
                f"| {p.saturation:.3f} | {p.contrast:.3f} | {p.clipped:.3f} |"
            )
    num_codes = len(next(iter(codes_of_float32.values())))
    print(
        f"\n{provenance()}\n\n{arguments.checkpoint}, {len(codes_of_float32)} images of {num_codes} codes each, ",
        end="",
    )
    print(f"cfg_weight {CFG_WEIGHT:g}\n\n" + "\n".join(lines))


def codes_of(rows: Sequence[dict[str, Any]]) -> dict[str, np.ndarray]:
    return {row["image_id"]: np.array(row["codes"]) for row in rows}


def compare(codes: dict[str, np.ndarray], others: dict[str, np.ndarray]) -> tuple[float, float]:
    """The share of images with the same codes, and the median number of codes before the first difference."""
    until = [int(np.logical_and.accumulate(codes[name] == others[name]).sum()) for name in codes]
    return float(np.mean([number == len(next(iter(codes.values()))) for number in until])), float(np.median(until))


if __name__ == "__main__":
    main()
