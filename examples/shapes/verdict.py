"""Prints the share of an output's images that the pixel rules find right, for each guidance weight.

    python -m examples.shapes.verdict renders/quickstart-janus renders/best-of

Each OUTPUT is one of `janus-batch render` whose prompts have the words of `examples/shapes/world.py`.
"""

from __future__ import annotations

import argparse
from collections import defaultdict

import numpy as np

import janus_batch
from examples.shapes.judge import faults
from examples.shapes.world import read_prompt


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("outputs", nargs="+", metavar="OUTPUT", help="folder or URL of a job's output")
    arguments = parser.parse_args()
    print("| output | cfg_weight | images | right |\n|---|---|---|---|")
    for output in arguments.outputs:
        for weight, verdicts in sorted(verdicts_by_weight(output).items()):
            print(f"| {output} | {weight:g} | {len(verdicts)} | {np.mean(verdicts):.1%} |")


def verdicts_by_weight(output: str) -> dict[float, list[bool]]:
    """Whether each image of an output is right, by its guidance weight."""
    found: dict[float, list[bool]] = defaultdict(list)
    opened = janus_batch.open(output)
    rows = opened.rows.select(["prompt", "cfg_weight"]).to_pylist()
    for row, image in zip(rows, opened.images, strict=True):
        found[row["cfg_weight"]].append(not faults(np.asarray(image), read_prompt(row["prompt"])))
    return found


if __name__ == "__main__":
    main()
