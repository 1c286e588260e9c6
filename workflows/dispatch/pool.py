"""The pool: Ray itself, how many GPU actors there may be, and the actor class that wraps a Painter."""

from __future__ import annotations

import glob
import logging
import math
import os
import signal
import socket
import sys
import traceback
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, cast

# Read once, by the import of ray. The driver says itself that it lost an actor, and why, in one line.
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "A worker died or was killed while executing a task")

import ray
from ray._private import ray_constants
from ray.autoscaler.v2.sdk import get_cluster_resource_state
from ray.experimental.internal_kv import internal_kv_get_gcs_client

from actors.batcher import Answer, BatchReport, Painter
from actors.engines import open_engine
from actors.errors import InputError, JobFailure
from janus_batch import own_packages_first
from workflows.dispatch import metrics
from workflows.job import RenderJob
from workflows.rows import ShardRows

# Shards an actor holds at once: one whose images it renders, one to fill its batches from, one being read.
SHARDS_IN_FLIGHT = 3
CPUS_PER_ACTOR = 2  # of a pool without GPUs whose size the job file leaves open
CONNECT_SECONDS = 10
NODE_LABEL = "ray.io/node-id"


class ClusterError(InputError):
    """There is no Ray cluster to join at the address given."""


class RayNotStartedError(JobFailure):
    """Ray did not come up on this machine: too little memory, no room on the disk, or too busy to do it in its time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineCard:
    """What an actor says of its engine once it is loaded."""

    device: str
    batch_size: int
    node: str
    pid: int


class DeviceLostError(RuntimeError):
    """A GPU failed under the engine: nothing that this process does on it will work again."""


class PainterActor:
    """One process with one loaded model. `load` first; then any number of `paint` calls, several at a time."""

    def __init__(self, job: RenderJob, batch_size: int | None) -> None:
        self._job, self._batch_size = job, batch_size
        if not job.workers.gpus_per_actor:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""  # Ray hides no GPU from an actor that asks for none
        self._painter: Painter | None = None

    def load(self) -> EngineCard:
        """Fetch the checkpoint to this machine and build the engine. Raises CheckpointError."""
        with _device_errors():
            engine = open_engine(self._job.recipe, self._job.storage, allow_faults=self._job.allow_faults)
        self._painter = Painter(engine, self._batch_size, on_batch=self._report)
        node = ray.get_runtime_context().get_node_id()
        return EngineCard(device=engine.device, batch_size=self._painter.batch_size, node=node, pid=os.getpid())

    def paint(self, rows: ShardRows, start: int = 0, stop: int | None = None) -> Iterator[list[Answer]]:
        """Stream the answers to the requests of a shard, or of its rows `start` to `stop` counted from its first.

        The pixels go to Ray's object store, not to the driver.
        """
        assert self._painter is not None, "load() comes first"
        chosen = range(start, rows.shard.num_rows if stop is None else stop)
        with _device_errors():
            yield from self._painter.paint([r for r in rows.requests if rows.row_of[r.prompt_id] in chosen])

    def whereabouts(self) -> str:
        """Where the thread that is in the engine is: file, line and function, for what is told of a stuck actor."""
        for frame in sys._current_frames().values():
            calls = traceback.extract_stack(frame)
            if any(call.name == "_ask_engine" for call in calls):
                last = calls[-1]
                return f"{os.path.basename(last.filename)}:{last.lineno} in {last.name}"
        return "not in its engine"

    def _report(self, batch: BatchReport) -> None:
        job = self._job.name
        metrics.observe("janus_batch_batch_seconds", job, batch.seconds)
        metrics.observe("janus_batch_batch_fill", job, batch.num_images / batch.batch_size)
        metrics.show("janus_batch_queue_depth", job, batch.num_waiting)


def start_ray(address: str | None) -> None:
    """Join the Ray cluster at `address` (or RAY_ADDRESS), or start one on this machine that ends with this process.

    Raises ClusterError if there is no cluster to join, and RayNotStartedError.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Every error reaches the user once, through the driver; Ray's own report of it would be a second.
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
    if ray.is_initialized():
        return
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    try:
        if address == "local":
            _start_here()
        else:
            _join(address)
    except SystemExit as error:  # so ends ray.init() when this process is told to end meanwhile
        raise KeyboardInterrupt from error
    finally:
        _end_as_interrupted()


def count_gpus(address: str | None) -> int:
    """GPUs of the cluster that `start_ray(address)` would use; a cluster to be started is this machine."""
    if address or os.environ.get("RAY_ADDRESS") or ray.is_initialized():
        start_ray(address)
        return int(ray.cluster_resources().get("GPU", 0))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([name for name in visible.split(",") if name.strip()])
    return len(glob.glob("/dev/nvidia[0-9]*"))


def pool_size(job: RenderJob, num_shards: int) -> int:
    """Actors to ask Ray for: those with room are started now, the rest as nodes join."""
    workers, resources = job.workers, ray.cluster_resources()
    if workers.max is not None:
        wanted = workers.max
    elif workers.gpus_per_actor:
        wanted = int(resources.get("GPU", 0) // workers.gpus_per_actor)
    else:
        wanted = int(resources.get("CPU", 1) // CPUS_PER_ACTOR)
    return max(1, workers.min, min(wanted, num_shards))


def cpus_of_actor(job: RenderJob, num_painters: int) -> float:
    """CPUs to ask for with each actor. Ray gives a process as many threads as CPUs, so without GPUs the actors share
    all that are free; but one must fit on a node beside what runs there, or it waits for room for ever.
    """
    if job.workers.gpus_per_actor:
        return 1.0
    num_all: float = ray.cluster_resources().get("CPU", 0)
    num_free: float = ray.available_resources().get("CPU", 0)
    largest: float = max(node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"])
    return max(1.0, min(num_free // num_painters, largest - (num_all - num_free)))


def start_painter(
    job: RenderJob, num_cpus: float, batch_size: int | None = None, avoided_nodes: Collection[str] = ()
) -> ray.actor.ActorHandle[PainterActor]:
    """Ask Ray for one actor. It may wait for room; Ray does not restart it, since a retry is the driver's to decide."""
    options: dict[str, Any] = {
        "num_gpus": job.workers.gpus_per_actor,
        "num_cpus": num_cpus,
        "accelerator_type": job.workers.accelerator_type,
        "max_concurrency": SHARDS_IN_FLIGHT + 1,
        "max_restarts": 0,
        "max_task_retries": 0,
    }
    if avoided_nodes:
        options["label_selector"] = {NODE_LABEL: f"!in({','.join(sorted(avoided_nodes))})"}
    actor = ray.remote(PainterActor).options(**options).remote(job, batch_size)
    return cast("ray.actor.ActorHandle[PainterActor]", actor)  # Ray's own types say: or the class


def end_painter(actor: ray.actor.ActorHandle[PainterActor]) -> None:
    """End an actor's process at once, whatever it is in."""
    ray.kill(actor)


def num_lacking_room(job: RenderJob, num_cpus: float) -> int:
    """Actors of this job's size that Ray has no room for now, by the list it keeps for its autoscaler. An actor that
    has its room and whose process only starts is not in it.
    """
    state = get_cluster_resource_state(internal_kv_get_gcs_client())
    size = {"CPU": num_cpus, "GPU": job.workers.gpus_per_actor}
    counts = [
        asked.count
        for asked in state.pending_resource_requests
        if all(math.isclose(asked.request.resources_bundle.get(name, 0), size[name], abs_tol=1e-3) for name in size)
    ]
    return sum(counts)


def draining_nodes() -> set[str]:
    """The nodes that are about to go away: a spot notice, `ray drain-node`, an autoscaler that scales down."""
    return set(ray._private.state.state.get_draining_nodes())  # what Ray's own libraries call; there is no public name


def is_node_alive(node_id: str) -> bool:
    """Whether the cluster still has this node."""
    return any(node["Alive"] for node in ray.nodes() if node["NodeID"] == node_id)


@contextmanager
def _device_errors() -> Iterator[None]:
    """Tell a failure of CUDA from a bug by its text: for most of both, torch raises a plain RuntimeError."""
    try:
        yield
    except RuntimeError as error:
        if "CUDA error" not in str(error) and "cuDNN error" not in str(error):
            raise
        raise DeviceLostError(str(error)) from error


def _listen_on_this_machine_only() -> None:
    """Keep every listener of a Ray that this process starts on 127.0.0.1. Ray's own switch for it is named after the
    systems where it is the default, and was read when ray was imported, before the address was known.
    """
    os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = "0"  # for the processes that Ray starts
    ray_constants.ENABLE_RAY_CLUSTER = False


def _start_here() -> None:
    _listen_on_this_machine_only()
    try:
        _init("local", include_dashboard=False)
    except Exception as error:  # of no class of its own
        raise RayNotStartedError(f"Ray did not start on this machine: {error}") from error


def _init(address: str, **options: Any) -> None:
    """ray.init() with this program's own packages in every worker, whatever the user's files are called."""
    own_packages = {"worker_process_setup_hook": own_packages_first()}
    ray.init(address, runtime_env=own_packages, logging_level=logging.ERROR, log_to_driver=False, **options)


def _join(address: str) -> None:
    """ray.init() with an address, after a look whether anything is there: it would wait for minutes."""
    try:
        if "://" in address:
            raise ValueError("that is no address of a cluster but of a server in front of one")
        if address != "auto":
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
        _init(address)
    except (OSError, ValueError, RuntimeError) as error:
        raise ClusterError(
            f"--address: no Ray cluster can be joined at {address} ({error}); allowed are auto and HOST:PORT of a head "
            "node, from one of the cluster's machines. From elsewhere use `janus-batch submit --address URL`"
        ) from error


def _end_as_interrupted() -> None:
    """Make SIGTERM, which `kill`, Kubernetes and Ray's job server send, what a Ctrl-C is: Ray's own handler prints a
    stack and aborts. The signal is not passed on as SIGINT, because Ray starts job drivers with that one blocked.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        handler = signal.getsignal(signal.SIGINT)
        (handler if callable(handler) else signal.default_int_handler)(number, frame)

    signal.signal(signal.SIGTERM, interrupt)
