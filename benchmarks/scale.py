"""The driver's cost per shard: with 1,000 simulated actors and a million shards, with Ray itself, and in S3 requests.

    python -m benchmarks.scale [--actors N] [--shards N]

`simulated` runs the driver's own loop on a clock that jumps: simulated actors take simulated time, everything else
takes the time that this machine needs. `idle` is the share of time in which the actors had nothing to render; `added`
is the growth of the driver's memory since a tenth of the shards was done. `Ray` renders toy shards of one image with
two real actors; the difference of two sizes gives the driver's processor time per shard. `S3` counts the requests that
the path of a shard sends to a real S3 server (moto's).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import random
import selectors
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq

from actors.batcher import Batcher
from actors.toy import ToyEngine
from benchmarks.planning import memory_of, provenance, timed
from jobs.job_file.resolve import resolve
from jobs.job_file.spec import JobSpec
from workflows.dispatch.actor import Actor, EngineCard
from workflows.dispatch.progress import Progress
from workflows.job import RenderJob
from workflows.output import commit, images
from workflows.output.claim import claim_output
from workflows.plan import Plan, Shard, make_plan
from workflows.prompts import PromptFile, find_prompt_files
from workflows.rows import read_shard
from workflows.storage.store import Storage

NUM_FILES = 100
SHARD_ROWS = 256
SHARD_SECONDS = 6.0  # of an H200 with Janus-Pro-1B at 44 images/s
SPREAD = 0.1  # relative, of the seconds of a shard
READ_SECONDS, COMMIT_SECONDS = 0.1, 0.5
LOAD_SECONDS = 60.0
NUM_S3_IMAGES = 512


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--actors", type=int, default=1000, help="simulated (default: %(default)s)")
    parser.add_argument("--shards", type=int, default=1_000_000, help="simulated (default: %(default)s)")
    parser.add_argument("--ray-shards", type=int, nargs=2, default=[500, 2500], help="(default: 500 2500)")
    parser.add_argument("--apart", nargs=2, metavar=("PART", "ARGUMENT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.apart:
        part, argument = arguments.apart
        print(json.dumps({"simulate": simulate, "ray": ray_run, "s3": s3_requests}[part](argument)))
        return
    print(provenance() + "\n")
    print_simulation(arguments.actors, arguments.shards)
    print_ray(*arguments.ray_shards)
    print_s3()


# ---- simulated -------------------------------------------------------------------------------------------------------


def print_simulation(num_actors: int, num_shards: int) -> None:
    print(f"simulated: shards of {SHARD_ROWS} rows, each {SHARD_SECONDS:g} s +- {SPREAD:.0%} on an actor\n")
    print("| actors | shards | plan | resume | driver per shard | shards/s at most | idle | peak | added |")
    print("|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    run = run_apart("simulate", f"{num_actors} {num_shards}")
    print(
        f"| {num_actors:,} | {num_shards:,} | {run['plan'] * 1000:.1f} ms | {run['resume']:.1f} s "
        f"| {run['driver'] * 1e6:.0f} us | {1 / run['driver']:,.0f} | {run['idle']:.1%} | {run['peak']:.0f} MiB "
        f"| {run['added']:.1f} MiB |\n",
        flush=True,
    )


def simulate(sizes: str) -> dict[str, float]:
    """Render a plan with simulated actors: seconds to plan, to resume and per shard, the idle share, and MiB."""
    from workflows.dispatch.loop import Dispatch
    from workflows.dispatch.pool import Limits

    num_actors, num_shards = map(int, sizes.split())
    files = synthetic_files(num_shards)
    plan, planning = timed(lambda: make_plan(files, [], SHARD_ROWS))
    committed = [shard.id for number, shard in enumerate(plan.remaining_shards()) if number % 2]
    resuming = timed(partial(count_remaining, files, committed))[1]
    del committed
    clock = JumpingClock()
    cluster, progress = SimulatedCluster(clock, num_actors, num_shards), Progress(clock=clock.now)
    job = toy_job("prompts", "output", num_actors)
    started_at = time.process_time()
    with asyncio.Runner(loop_factory=clock.loop) as runner:
        runner.run(Dispatch(job, plan, cluster, progress, Limits()).run())
    driver = time.process_time() - started_at
    if progress.num_shards != num_shards:
        raise AssertionError(f"{progress.num_shards} of {num_shards} shards were rendered")
    return {
        "plan": planning,
        "resume": resuming,
        "driver": driver / num_shards,
        "idle": 1 - cluster.busy_seconds / (num_actors * (clock.now() - cluster.loaded_at)),
        "peak": memory_of("VmHWM"),
        "added": cluster.added_memory,
    }


def count_remaining(files: list[PromptFile], committed: list[str]) -> int:
    return sum(1 for _ in make_plan(files, committed, SHARD_ROWS).remaining_shards())


def synthetic_files(num_shards: int) -> list[PromptFile]:
    num_rows = num_shards * SHARD_ROWS // NUM_FILES
    names = [f"prompts-{number:05d}.parquet" for number in range(NUM_FILES)]
    return [PromptFile(url=name, name=name, version="0" * 8, num_bytes=1, num_rows=num_rows) for name in names]


class JumpingClock:
    """Runs like the real clock, and jumps over every wait of the event loop."""

    def __init__(self) -> None:
        self._jumped = 0.0

    def now(self) -> float:
        return time.perf_counter() + self._jumped

    def loop(self) -> asyncio.AbstractEventLoop:
        clock = self

        class Selector(selectors.DefaultSelector):
            def select(self, timeout: float | None = None) -> list:
                ready = super().select(0)
                if ready or not timeout:
                    return ready if ready or timeout is not None else super().select()
                clock._jumped += timeout
                return []

        loop = asyncio.SelectorEventLoop(Selector())
        loop.time = clock.now
        return loop


class SimulatedCluster:
    """In place of `workflows.dispatch.cluster.Cluster`: actors that take time on the event loop's clock."""

    def __init__(self, clock: JumpingClock, num_actors: int, num_shards: int) -> None:
        self.clock = clock
        self._num_actors, self._num_shards, self._num_rendered = num_actors, num_shards, 0
        self._chance = random.Random(0)
        self._memory = 0.0
        self.busy_seconds = self.loaded_at = 0.0

    def pool_size(self, job: RenderJob, num_shards: int) -> int:
        return self._num_actors

    def cpus_per_actor(self, job: RenderJob, num_actors: int) -> float:
        return 1.0

    def start_actor(self, *arguments: object) -> asyncio.Lock:
        """The handle of an actor that renders one shard at a time."""
        return asyncio.Lock()

    async def wait_until_started(self, handle: asyncio.Lock) -> None: ...

    async def load(self, handle: asyncio.Lock) -> EngineCard:
        await asyncio.sleep(LOAD_SECONDS)
        return EngineCard(device="simulated", batch_size=128, node="node", pid=0)

    def end_actor(self, handle: asyncio.Lock) -> None: ...

    def num_lacking_room(self, job: RenderJob, num_cpus: float) -> int:
        return 0

    def draining_nodes(self) -> set[str]:
        return set()

    def is_node_alive(self, node: str) -> bool:
        return True

    def is_own_node_alive(self) -> bool:
        return True

    def steps(self, job: RenderJob, progress: Progress, listening: object) -> SimulatedSteps:
        return SimulatedSteps(self, progress)

    def seconds_of_shard(self) -> float:
        return SHARD_SECONDS * self._chance.uniform(1 - SPREAD, 1 + SPREAD)

    def shard_is_rendered(self, seconds: float) -> None:
        self.busy_seconds += seconds
        self._num_rendered += 1
        if self._num_rendered == self._num_shards // 10:
            self._memory = memory_of("VmRSS")

    @property
    def added_memory(self) -> float:
        return memory_of("VmRSS") - self._memory


class SimulatedSteps:
    """In place of `workflows.dispatch.steps.ShardSteps`: the same steps, each with its duration."""

    def __init__(self, cluster: SimulatedCluster, progress: Progress) -> None:
        self._cluster, self._progress, self.num_rendered = cluster, progress, 0

    async def read(self, actor: Actor, shard: Shard) -> Shard:
        await asyncio.sleep(READ_SECONDS)
        return shard

    async def render(self, actor: Actor, read: Shard) -> Shard:
        async with actor.handle:
            self._cluster.loaded_at = self._cluster.loaded_at or self._cluster.clock.now()
            seconds = self._cluster.seconds_of_shard()
            await asyncio.sleep(seconds)
            self._cluster.shard_is_rendered(seconds)
        actor.num_images += SHARD_ROWS
        self.num_rendered += SHARD_ROWS
        self._progress.images_are_written(actor.slot, SHARD_ROWS, 0, round(self._cluster.clock.now() * 1e6))
        return read

    async def commit(self, actor: Actor, read: Shard, rendered: Iterable[Shard]) -> commit.Receipt:
        await asyncio.sleep(COMMIT_SECONDS)
        return commit.Receipt(shard_id=read.id, num_images=read.num_rows, num_rejected=0, is_first=True)

    def uncount(self, actor: Actor, num_images: int) -> None:
        self._progress.images_are_taken_back(actor.slot, num_images)


# ---- Ray -------------------------------------------------------------------------------------------------------------


def print_ray(num_few: int, num_many: int) -> None:
    few, many = (run_apart("ray", str(number)) for number in (num_few, num_many))
    driver, seconds = ((many[key] - few[key]) / (num_many - num_few) for key in ("driver", "seconds"))
    print(f"Ray: {num_few:,} and {num_many:,} toy shards of one image, two actors on this machine\n")
    print("| driver per shard | shards/s of this run | shards/s at most | memory added by the additional shards |")
    print("|---:|---:|---:|---:|")
    print(
        f"| {driver * 1000:.2f} ms | {1 / seconds:.0f} | {1 / driver:.0f} | {many['peak'] - few['peak']:.0f} MiB |\n",
        flush=True,
    )


def ray_run(num_shards: str) -> dict[str, float]:
    """Seconds, and seconds of the driver's processor, that a toy job of this many shards takes on two actors."""
    from workflows.dispatch.cluster import Cluster
    from workflows.dispatch.loop import render_shards

    with tempfile.TemporaryDirectory(prefix="janus-batch-scale-") as folder:
        job, plan = toy_plan(folder, f"{folder}/output", int(num_shards), shard_rows=1)
        cluster = Cluster("local")
        cluster.start()
        started_at, cpu_before = time.monotonic(), time.process_time()
        render_shards(job, plan, cluster, Progress())
        driver = time.process_time() - cpu_before
        return {"driver": driver, "seconds": time.monotonic() - started_at, "peak": memory_of("VmHWM")}


# ---- S3 --------------------------------------------------------------------------------------------------------------


def print_s3() -> None:
    print(f"S3: {NUM_S3_IMAGES} toy images in shards of {SHARD_ROWS} rows; requests on the path of the shards\n")
    print("| layout | requests per image | all requests |\n|:---|---:|:---|")
    for layout in ("files", "webdataset", "parquet"):
        requests = run_apart("s3", layout)
        each = ", ".join(f"{count} {name}" for name, count in sorted(requests.items()))
        print(f"| {layout} | {sum(requests.values()) / NUM_S3_IMAGES:.3f} | {each} |", flush=True)


def s3_requests(layout: str) -> Counter[str]:
    """The requests, by operation, that two shards send to S3 between reading their rows and their commit."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    os.environ.update(AWS_ACCESS_KEY_ID="benchmark", AWS_SECRET_ACCESS_KEY="benchmark")
    host, port = server.get_host_and_port()
    options = {"endpoint_url": f"http://{host}:{port}"}
    Storage("s3://benchmark", options).fs.mkdir("benchmark")
    with tempfile.TemporaryDirectory(prefix="janus-batch-scale-") as folder:
        job, plan = toy_plan(folder, "s3://benchmark/output", NUM_S3_IMAGES, SHARD_ROWS, layout, options)
        claim_output(job, {})
        requests: Counter[str] = Counter()
        client = Storage(job.output, job.storage).fs.s3
        client.meta.events.register("before-send.s3", partial(count_request, requests))
        for shard in plan.remaining_shards():
            rows = read_shard(job, shard)
            batches = Batcher(ToyEngine(job.recipe)).render(rows.requests)
            commit.commit_shard(job, rows, *(images.write_batch(job, shard.id, "cpu", batch) for batch in batches))
    server.stop()
    return requests


def count_request(requests: Counter[str], event_name: str, **_: object) -> None:
    requests[event_name.split(".")[-1]] += 1


# ---- shared ------------------------------------------------------------------------------------------------------


def toy_plan(
    folder: str, output: str, num_rows: int, shard_rows: int, layout: str = "files", storage: dict | None = None
) -> tuple[RenderJob, Plan]:
    """A toy job of `num_rows` prompts and its plan."""
    prompts = [f"a red circle, number {number}" for number in range(num_rows)]
    pq.write_table(pa.table({"prompt": prompts}), f"{folder}/prompts.parquet")
    job = toy_job(f"{folder}/prompts.parquet", output, 2, layout, storage)
    return job, make_plan(find_prompt_files(job.prompts, {}), [], shard_rows)


def toy_job(
    prompts: str, output: str, num_actors: int, layout: str = "files", storage: dict | None = None
) -> RenderJob:
    spec = {
        "name": "scale",
        "prompts": prompts,
        "output": output,
        "model": {"checkpoint": "toy"},
        "images": {"layout": layout},
        "workers": {"max": num_actors},
        "storage": storage or {},
        "shard_rows": SHARD_ROWS,
    }
    return resolve(JobSpec.model_validate(spec), num_gpus=0)


def run_apart(part: str, argument: str) -> dict[str, float]:
    """Run one part in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.scale", "--apart", part, argument]
    run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(run.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
