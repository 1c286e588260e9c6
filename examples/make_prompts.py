"""Writes examples/prompts/shapes.parquet: prompts that the bundled checkpoints never saw in training.

Run from the project's root: `python -m examples.make_prompts`.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from examples.shapes.world import describe, held_out_pairs, held_out_singles

OUTPUT = Path(__file__).parent / "prompts" / "shapes.parquet"


def main() -> None:
    scenes = [("one shape", scene) for scene in held_out_singles(0, 8)]
    scenes += [("two shapes", scene) for scene in held_out_pairs(0, 4)]
    table = pa.table(
        {
            "id": [f"shapes-{index:02d}" for index in range(len(scenes))],
            "prompt": [describe(scene) for _, scene in scenes],
            "kind": [kind for kind, _ in scenes],
        }
    )
    OUTPUT.parent.mkdir(exist_ok=True)
    pq.write_table(table, OUTPUT)


if __name__ == "__main__":
    main()
