"""Converts the prompts that a benchmark publishes to a prompt file.

    python -m examples.recipes.convert_prompts KIND SOURCE PROMPTS.parquet

SOURCE is evaluation_metadata.jsonl (geneval), the folder of .txt files (dpg) or PartiPrompts.tsv (parti).
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import click
import pyarrow as pa
import pyarrow.parquet as pq


@click.command()
@click.argument("kind", type=click.Choice(["geneval", "dpg", "parti"]))
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.argument("output", type=click.Path(dir_okay=False, path_type=Path))
def main(kind: str, source: Path, output: Path) -> None:
    """Write the Parquet file that the benchmark's job file reads."""
    rows = {"geneval": geneval_rows, "dpg": dpg_rows, "parti": parti_rows}[kind](source)
    if not rows:
        raise click.UsageError(f"{source} has no {kind} prompts")
    output.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), output)
    click.echo(f"{output}: {len(rows):,} prompts")


def geneval_rows(source: Path) -> list[dict[str, Any]]:
    """Ids end in the line's number, because GenEval numbers its folders; `metadata` keeps the line itself."""
    lines = [line for line in source.read_text(encoding="utf-8").splitlines() if line.strip()]
    return [
        {"id": f"geneval-{n:05d}", "prompt": entry["prompt"], "tag": entry["tag"], "metadata": line}
        for n, line in enumerate(lines)
        for entry in [json.loads(line)]
    ]


def dpg_rows(source: Path) -> list[dict[str, Any]]:
    """Ids are file names without extension, because DPG-Bench names its images that way."""
    files = sorted(source.glob("*.txt"))
    return [{"id": file.stem, "prompt": file.read_text(encoding="utf-8").strip()} for file in files]


def parti_rows(source: Path) -> list[dict[str, Any]]:
    with source.open(encoding="utf-8", newline="") as file:
        table = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [
            {
                "id": f"parti-{n:04d}",
                "prompt": row["Prompt"],
                "category": row["Category"],
                "challenge": row["Challenge"],
            }
            for n, row in enumerate(table)
        ]


if __name__ == "__main__":
    main()
