"""Images per second of a whole job, compared with its engine alone, with Ray Data, and with several actors.

    python -m benchmarks.pipeline [--checkpoint NAME] [--images N] [--rounds N] [--actors 1 2 4]

`engine` renders the prompts batch after batch and drops the images. `job` is `janus-batch render` with one actor.
`ray data` is `read_parquet().map_batches()` with the same engine, and writes the same PNG files and a Parquet file of
prompts and seeds. Starting Ray and loading the model do not count: the throughput is measured from the end of the first
batch until the last file is written. Each round runs all three; the table shows medians.

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
from actors.request import ImageRequest, RenderedImage
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
PAUSE_SECONDS = 0.1  # of the toy engine, per image
IMAGES_PER_ACTOR = 4 * SHARD_ROWS  # of the toy engine: no actor runs out of shards before the end
WAYS = ("engine", "job", "ray data")

# One thread for the model and one processor for everything else: a GPU machine on a small scale.
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
    parser.add_argument("--images", type=int, default=512, help="per way (default: %(default)s)")
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
    """Print the images per second of the three ways to render the same prompts."""
    throughputs: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(num_rounds):
        for way in WAYS:
            with tempfile.TemporaryDirectory(prefix="janus-batch-pipeline-") as folder:
                prompts = [describe(scene) for scene in held_out_singles(7, num_images)]
                write_job(Path(folder), checkpoint, prompts, num_actors=1)
                found = throughput_of_job(Path(folder)) if way == "job" else throughput_apart(way, folder)
                throughputs[way].append(found)
    alone = statistics.median(throughputs["engine"])
    print(f"{checkpoint}, {num_images} images, one actor, batches of {BATCH_SIZE}, medians of {num_rounds} rounds\n")
    print("| way | images/s | share of the engine | every round |\n|:---|---:|---:|:---|")
    for way in WAYS:
        median, each = statistics.median(throughputs[way]), ", ".join(f"{one:.3g}" for one in throughputs[way])
        print(f"| {way} | {median:.3g} | {median / alone:.2f} | {each} |", flush=True)


def compare_actors(numbers: Sequence[int]) -> None:
    """Print how the toy engine's images per second grow with the number of actors, on a Ray with one CPU for each.

    The actors sleep instead of rendering, so this machine needs fewer CPUs.
    """
    import ray

    context = ray.init("local", num_cpus=max(numbers), include_dashboard=False, log_to_driver=False)
    print(f"\ntoy engine, {PAUSE_SECONDS:g} s per image, {IMAGES_PER_ACTOR} images per actor\n")
    print("| actors | images/s | share of the actors' own |\n|---:|---:|---:|")
    for num_actors in numbers:
        with tempfile.TemporaryDirectory(prefix="janus-batch-pipeline-") as folder:
            number = range(IMAGES_PER_ACTOR * num_actors)
            write_job(Path(folder), "toy", [f"toy:sleep={PAUSE_SECONDS} {n}" for n in number], num_actors)
            found = throughput_of_job(Path(folder), BATCH_SIZE * num_actors, "--address", context["gcs_address"])
            print(f"| {num_actors} | {found:.3g} | {found * PAUSE_SECONDS / num_actors:.2f} |", flush=True)


# ---- the three ways --------------------------------------------------------------------------------------------------


def engine_alone(folder: Path) -> float:
    job = read_job(folder)
    batcher = Batcher(open_engine(job.recipe, {}), BATCH_SIZE)
    times = []
    for batch in batcher.render(requests_of(job)):
        times += [time.time()] * len(batch)
    return throughput_after_first(times)


def throughput_of_job(folder: Path, num_first: int = BATCH_SIZE, *options: str) -> float:
    """Run `janus-batch render` and compute the throughput from the times of its files, manifest parts included."""
    command = [sys.executable, "-m", "jobs", "render", str(folder / "job.yaml"), *options]
    run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if run.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{run.stdout}")
    return throughput_of_files(folder, num_first)


def ray_data(folder: Path) -> float:
    """Do the same work as a Ray Data pipeline with one actor."""
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
    return throughput_of_files(folder, BATCH_SIZE)


class RayDataEngine:
    """Renders a batch of rows, writes its PNG files and returns its manifest rows."""

    def __init__(self, folder: str) -> None:
        self._folder, self._job = Path(folder), read_job(Path(folder))
        self._engine = open_engine(self._job.recipe, {})
        self._requests = {request.image_id: request for request in requests_of(self._job)}

    def __call__(self, batch: dict) -> dict:
        requests = [self._requests[image_id] for image_id in batch["id"]]
        for request, image in zip(requests, self._engine.render(requests), strict=True):
            self._write(request, image, self._job.recipe)
        return {**batch, "seed": np.array([request.seed for request in requests], np.uint64)}

    def _write(self, request: ImageRequest, image: RenderedImage, recipe: Recipe) -> None:
        data = encode_image(image, "png", request, recipe)
        (self._folder / "output" / "images" / f"{request.image_id}.png").write_bytes(data)


# ---- shared ------------------------------------------------------------------------------------------------------


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


def throughput_apart(way: str, folder: str) -> float:
    command = [sys.executable, "-m", "benchmarks.pipeline", "--apart", way, folder]
    run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(run.stdout.splitlines()[-1])


def throughput_of_files(folder: Path, num_first: int) -> float:
    """Images per second by the times of the image files; the last image ends with the last file of the output."""
    images = sorted(file.stat().st_mtime for file in folder.glob("output/images/**/*.png"))
    parts = [file.stat().st_mtime for file in folder.glob("output/manifest/*")]
    return throughput_after_first([*images[:-1], max(parts + images[-1:])], num_first)


def throughput_after_first(times: Sequence[float], num_first: int = BATCH_SIZE) -> float:
    """Images per second after the first `num_first`, which include loading the model."""
    return (len(times) - num_first) / (times[-1] - times[num_first - 1])


if __name__ == "__main__":
    main()
