"""Images per second of a whole job against its engine alone, over several actors, and against the same in Ray Data.

    python -m benchmarks.pipeline [--checkpoint NAME] [--images N] [--rounds N] [--actors 1 2 4]

`engine` renders the prompts batch after batch and drops the pictures. `job` is `janus-batch render` with one actor, and
`ray data` is `read_parquet().map_batches()` with the same engine, which writes the same PNG files, and a Parquet file
of prompts and seeds; neither includes the start of Ray or the loading of the model: every rate is taken from the end
of the first batch to the end of the last one's files. The rounds take the three in turn; the medians are shown.

With several actors the toy engine renders; it sleeps for each image, so an actor takes time but no processor.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from actors.batcher import Batcher
from actors.engines import open_engine
from actors.recipe import Recipe
from actors.request import ImageRequest
from benchmarks.planning import provenance
from examples.shapes.world import describe, held_out_singles
from jobs.job_file.resolve import resolve
from jobs.job_file.spec import JobSpec
from workflows.job import RenderJob
from workflows.output.encode import encode_image
from workflows.plan import make_plan
from workflows.prompts import find_prompt_files
from workflows.rows import read_shard

BATCH_SIZE = 16
SHARD_ROWS = 64
PAUSE_SECONDS = 0.1  # of the toy engine, an image
IMAGES_AN_ACTOR = 4 * SHARD_ROWS  # of the toy engine: no actor is without a shard before the end
WAYS = ("engine", "job", "ray data")

# One thread for the model and one processor for everything else: what a GPU machine has, in small.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "RAY_worker_niceness": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # every listener stays on 127.0.0.1
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", default="janus-shapes", help="(default: %(default)s)")
    parser.add_argument("--images", type=int, default=512, help="of every way (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--actors", type=int, nargs="+", default=[1, 2, 4, 8], help="(default: 1 2 4 8)")
    parser.add_argument("--apart", nargs=2, metavar=("WAY", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.apart:
        way, folder = arguments.apart
        print(json.dumps({"engine": engine_alone, "ray data": ray_data}[way](Path(folder))))
        return
    os.environ.update(ENVIRONMENT)
    print(provenance() + "\n")
    compare_ways(arguments.checkpoint, arguments.images, arguments.rounds)
    compare_actors(arguments.actors)


def compare_ways(checkpoint: str, num_images: int, num_rounds: int) -> None:
    """Print the images per second of the three ways through the same prompts."""
    rates: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(num_rounds):
        for way in WAYS:
            with tempfile.TemporaryDirectory(prefix="janus-batch-pipeline-") as folder:
                prompts = [describe(scene) for scene in held_out_singles(7, num_images)]
                write_job(Path(folder), checkpoint, prompts, num_actors=1)
                rates[way].append(rate_of_job(Path(folder)) if way == "job" else rate_apart(way, folder))
    alone = statistics.median(rates["engine"])
    print(f"{checkpoint}, {num_images} images, one actor, batches of {BATCH_SIZE}, medians of {num_rounds} rounds\n")
    print("| way | images/s | of the engine | every round |\n|:---|---:|---:|:---|")
    for way in WAYS:
        median, each = statistics.median(rates[way]), ", ".join(f"{rate:.3g}" for rate in rates[way])
        print(f"| {way} | {median:.3g} | {median / alone:.2f} | {each} |", flush=True)


def compare_actors(numbers: Sequence[int]) -> None:
    """Print how the toy engine's images per second grow with the actors, on a Ray that has a CPU for each.

    They sleep instead of rendering, so that this machine need not have as many.
    """
    import ray

    context = ray.init("local", num_cpus=max(numbers), include_dashboard=False, log_to_driver=False)
    print(f"\ntoy engine, {PAUSE_SECONDS:g} s an image, {IMAGES_AN_ACTOR} images an actor\n")
    print("| actors | images/s | of the actors' own |\n|---:|---:|---:|")
    for num_actors in numbers:
        with tempfile.TemporaryDirectory(prefix="janus-batch-pipeline-") as folder:
            number = range(IMAGES_AN_ACTOR * num_actors)
            write_job(Path(folder), "toy", [f"toy:sleep={PAUSE_SECONDS} {n}" for n in number], num_actors)
            rate = rate_of_job(Path(folder), BATCH_SIZE * num_actors, "--address", context["gcs_address"])
            print(f"| {num_actors} | {rate:.3g} | {rate * PAUSE_SECONDS / num_actors:.2f} |", flush=True)


# ---- the three ways --------------------------------------------------------------------------------------------------


def engine_alone(folder: Path) -> float:
    job = read_job(folder)
    batcher = Batcher(open_engine(job.recipe, {}), BATCH_SIZE)
    times = []
    for batch in batcher.render(requests_of(job)):
        times += [time.time()] * len(batch)
    return rate_after_first(times)


def rate_of_job(folder: Path, num_first: int = BATCH_SIZE, *options: str) -> float:
    """Run `janus-batch render` and take the rate from the times of its files, the manifest's parts included."""
    command = [sys.executable, "-m", "jobs", "render", str(folder / "job.yaml"), *options]
    run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if run.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{run.stdout}")
    return rate_of_files(folder, num_first)


def ray_data(folder: Path) -> float:
    """The same work as one Ray Data pipeline with one actor."""
    import ray

    job, context = read_job(folder), ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    rows = [{"id": request.image_id, "prompt": request.prompt} for request in requests_of(job)]
    pq.write_table(pa.Table.from_pylist(rows), folder / "ids.parquet")
    (folder / "output" / "images").mkdir(parents=True)
    made = ray.data.read_parquet(str(folder / "ids.parquet")).map_batches(
        RayDataEngine,
        fn_constructor_args=(str(folder),),
        batch_size=BATCH_SIZE,
        compute=ray.data.ActorPoolStrategy(size=1),
        num_cpus=1,
    )
    made.write_parquet(str(folder / "output" / "manifest"))
    return rate_of_files(folder, BATCH_SIZE)


class RayDataEngine:
    """Renders a batch of rows, writes its PNG files and answers with its rows of a manifest."""

    def __init__(self, folder: str) -> None:
        self._folder, self._job = Path(folder), read_job(Path(folder))
        self._engine = open_engine(self._job.recipe, {})
        self._requests = {request.image_id: request for request in requests_of(self._job)}

    def __call__(self, batch: dict) -> dict:
        requests = [self._requests[image_id] for image_id in batch["id"]]
        for request, image in zip(requests, self._engine.render(requests), strict=True):
            self._write(request, image.pixels, self._job.recipe)
        return {**batch, "seed": np.array([request.seed for request in requests], np.uint64)}

    def _write(self, request: ImageRequest, pixels: np.ndarray, recipe: Recipe) -> None:
        data = encode_image(pixels, "png", request, recipe)
        (self._folder / "output" / "images" / f"{request.image_id}.png").write_bytes(data)


# ---- what they share -------------------------------------------------------------------------------------------------


def write_job(folder: Path, checkpoint: str, prompts: Sequence[str], num_actors: int) -> None:
    """A job file and its prompts."""
    ids = [f"{number:06d}" for number in range(len(prompts))]
    pq.write_table(pa.table({"id": ids, "prompt": list(prompts)}), folder / "prompts.parquet")
    spec = {
        "name": "pipeline",
        "prompts": str(folder / "prompts.parquet"),
        "output": str(folder / "output"),
        "model": {"checkpoint": checkpoint, "dtype": "float32"},
        "sampling": {"seed": 0},
        "shard_rows": SHARD_ROWS,
        "workers": {"max": num_actors, "gpus_per_actor": 0, "batch_size": BATCH_SIZE},
    }
    (folder / "job.yaml").write_text(yaml.safe_dump(spec))


def read_job(folder: Path) -> RenderJob:
    return resolve(JobSpec.model_validate(yaml.safe_load((folder / "job.yaml").read_text())), num_gpus=0)


def requests_of(job: RenderJob) -> list[ImageRequest]:
    """Every image of the job, in the order of its shards."""
    plan = make_plan(find_prompt_files(job.prompts, {}), [], job.shard_rows)
    return [request for shard in plan.remaining_shards() for request in read_shard(job, shard).requests]


def rate_apart(way: str, folder: str) -> float:
    command = [sys.executable, "-m", "benchmarks.pipeline", "--apart", way, folder]
    run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(run.stdout.splitlines()[-1])


def rate_of_files(folder: Path, num_first: int) -> float:
    """Images per second by the times of the pictures; the last image ends when the last file of the output is there."""
    pictures = sorted(file.stat().st_mtime for file in folder.glob("output/images/**/*.png"))
    parts = [file.stat().st_mtime for file in folder.glob("output/manifest/*")]
    return rate_after_first([*pictures[:-1], max(parts + pictures[-1:])], num_first)


def rate_after_first(times: Sequence[float], num_first: int = BATCH_SIZE) -> float:
    """Images per second after the first `num_first`, with which the loading of the model ends."""
    return (len(times) - num_first) / (times[-1] - times[num_first - 1])


if __name__ == "__main__":
    main()
