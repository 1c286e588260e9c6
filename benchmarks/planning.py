"""How long the driver plans and how much memory it needs, for 0.1, 1 and 10 million prompts in 100 files (Linux).

    python -m benchmarks.planning [--sizes ROWS ...]

Each size is planned in a process of its own: `footers` lists and opens the files, `plan` makes the plan, `hand out`
makes every shard with its id, `resume` plans again with half of the shards committed. `read` counts the bytes that
planning read (64 KiB per footer), `peak` is the peak memory of the process, and `added` its growth during planning.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from workflows.plan import make_plan
from workflows.prompts import find_prompt_files

NUM_FILES = 100
SHARD_ROWS = 256
NUM_RUNS = 3  # of each size; the table shows the median run
VOCABULARY = (
    "a painting photograph sketch of the red blue old glass wooden tiny giant fox castle bicycle teapot harbor forest "
    "robot astronaut violin under above beside behind stormy golden quiet neon misty mountain street kitchen river "
    "watercolor cinematic detailed minimal"
)
NUM_WORDS = 10  # of a prompt: about 60 characters

T = TypeVar("T")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", metavar="ROWS", type=int, nargs="+", default=[100_000, 1_000_000, 10_000_000])
    parser.add_argument("--measure", metavar="FOLDER", help=argparse.SUPPRESS)  # one run, in a process of its own
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure)))
        return
    print(provenance())
    print(f"{NUM_FILES} files, {SHARD_ROWS} rows per shard, the median of {NUM_RUNS} runs\n")
    print("|       rows |     files | shards | footers |   plan | hand out | resume |     read |   peak |   added |")
    print("|-----------:|----------:|-------:|--------:|-------:|---------:|-------:|---------:|-------:|--------:|")
    for num_rows in arguments.sizes:
        print(table_row(num_rows, measure_apart(num_rows)), flush=True)


def measure(folder: str) -> dict[str, float]:
    """Plan the prompts of a folder; seconds of each step, bytes read, and peak memory in MiB."""
    forget_peak_memory()
    memory_before, read_before = memory_of("VmRSS"), bytes_read()
    files, footers = timed(lambda: find_prompt_files(folder, {}))
    plan, planning = timed(lambda: make_plan(files, [], SHARD_ROWS))
    num_shards, handing_out = timed(lambda: sum(1 for shard in plan.remaining_shards() if shard.id))
    read, memory = bytes_read() - read_before, memory_of("VmHWM")
    # A resume knows half of the shards from a listing of manifest/, whose own time depends on the store.
    committed = [shard.id for number, shard in enumerate(plan.remaining_shards()) if number % 2]
    _, resuming = timed(lambda: make_plan(files, committed, SHARD_ROWS).num_shards_remaining)
    return {
        "num_shards": num_shards,
        "num_bytes": sum(file.num_bytes for file in files),
        "footers": footers,
        "plan": planning,
        "hand_out": handing_out,
        "resume": resuming,
        "read": read,
        "memory": memory,
        "added_memory": memory - memory_before,
    }


def measure_apart(num_rows: int) -> dict[str, float]:
    """Write the prompt files of one size and plan them in separate processes; returns the run with the median time."""
    with tempfile.TemporaryDirectory(prefix="janus-batch-planning-") as folder:
        write_prompts(Path(folder), num_rows)
        command = [sys.executable, "-m", "benchmarks.planning", "--measure", folder]
        runs = [json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout) for _ in range(NUM_RUNS)]
    return sorted(runs, key=lambda run: run["footers"] + run["plan"] + run["hand_out"])[NUM_RUNS // 2]


def write_prompts(folder: Path, num_rows: int) -> None:
    """Write the same table under a hundred names: a plan reads only names, sizes and footers."""
    chance, rows_of_file = random.Random(0), num_rows // NUM_FILES
    prompts = [" ".join(chance.choices(VOCABULARY.split(), k=NUM_WORDS)) for _ in range(rows_of_file)]
    table = pa.table({"id": [f"prompt-{n:09d}" for n in range(rows_of_file)], "prompt": prompts})
    first = folder / "prompts-00000.parquet"
    pq.write_table(table, first)
    for number in range(1, NUM_FILES):
        shutil.copyfile(first, folder / f"prompts-{number:05d}.parquet")


def table_row(num_rows: int, run: dict[str, float]) -> str:
    return (
        f"| {num_rows:>10,} | {run['num_bytes'] / 2**20:>5.0f} MiB | {run['num_shards']:>6,} "
        f"| {run['footers'] * 1000:>4.0f} ms | {run['plan'] * 1000:.1f} ms | {run['hand_out'] * 1000:>5.0f} ms "
        f"| {run['resume'] * 1000:>3.0f} ms | {run['read'] / 2**20:>4.1f} MiB | {run['memory']:>2.0f} MiB "
        f"| {run['added_memory']:>3.1f} MiB |"
    )


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """The result of `work`, and the seconds that it took."""
    started_at = time.perf_counter()
    result = work()
    return result, time.perf_counter() - started_at


def forget_peak_memory() -> None:
    """Let the kernel measure this process's peak memory from now on (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")


def memory_of(field: str) -> float:
    """VmRSS (now) or VmHWM (the peak) of this process, in MiB (Linux)."""
    return int(Path("/proc/self/status").read_text().split(f"{field}:")[1].split()[0]) / 2**10


def bytes_read() -> int:
    """Bytes that this process has read from files (Linux)."""
    return int(Path("/proc/self/io").read_text().split("rchar: ")[1].split()[0])


def provenance() -> str:
    """The commit, the machine and the versions that the numbers were measured with."""
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True).stdout.strip()
    cpus = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    machine = f"{len(cpus)} x {cpus[0].partition(':')[2].strip()}, {platform.system()} {platform.release()}"
    versions = f"Python {platform.python_version()}, pyarrow {pa.__version__}"
    return f"commit {commit}, {machine}, load {os.getloadavg()[0]:.1f}, {versions}"


if __name__ == "__main__":
    main()
