"""The Ray cluster that a job renders on: joined or started, its size and nodes, and the actors on it."""

from __future__ import annotations

import asyncio
import atexit
import glob
import math
import os
import threading
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from typing import Any, TypeAlias, TypeVar, cast

# Read once, when ray is imported. The driver reports a lost actor, node or raylet itself, with the reason, in one line;
# Ray would print its own reports on standard output, where programs read.
os.environ.setdefault(
    "RAY_DEDUP_LOGS_SKIP_REGEX",
    "A worker died or was killed while executing a task|Raylet is terminated|has been marked dead",
)

import ray
from ray.autoscaler.v2.sdk import get_cluster_resource_state
from ray.experimental.internal_kv import internal_kv_get_gcs_client

from janus_batch import treat_sigterm_as_ctrl_c
from workflows.dispatch.actor import SHARDS_IN_FLIGHT, Actor, EngineActor, EngineCard
from workflows.dispatch.progress import Progress
from workflows.dispatch.ray_start import ClusterError, join_ray, leave_ray, start_ray
from workflows.dispatch.side_task import SideTask
from workflows.dispatch.steps import ShardSteps
from workflows.job import RenderJob

CPUS_PER_ACTOR = 2  # of a pool without GPUs whose size the job file leaves open
ACCELERATOR = "accelerator_type:"  # begins the name of Ray's resource for a type of GPU
NODE_LABEL = "ray.io/node-id"

T = TypeVar("T")

# As text: Ray's class takes no parameters when the program runs.
Handle: TypeAlias = "ray.actor.ActorHandle[EngineActor]"


class Cluster:
    """The cluster at `address` (or RAY_ADDRESS); without either, a Ray on this machine that ends with this process.

    The dispatch loop does everything with Ray through this class, so a test or a benchmark can pass another one.
    """

    actor_class: type[EngineActor] = EngineActor

    def __init__(self, address: str | None = None) -> None:
        self._address = address or os.environ.get("RAY_ADDRESS") or ""

    # ---- joining and size ----------------------------------------------------------------------------------------

    @property
    def is_joined(self) -> bool:
        """Whether `start` joins a cluster that runs already."""
        return self._address not in ("", "local")

    @property
    def is_started(self) -> bool:
        """Whether this process has joined or started Ray."""
        return bool(ray.is_initialized())

    def start(self) -> None:
        """Join or start Ray, unless this process has done so. Raises ClusterError or RayNotStartedError."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        # Every error reaches the user once, through the driver; Ray's own report of it would be a second.
        os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
        if ray.is_initialized():
            return
        try:
            if self.is_joined:
                join_ray(self._address)
            else:
                start_ray()
        except SystemExit as error:  # raised by ray.init() when this process receives a SIGTERM meanwhile
            raise KeyboardInterrupt from error
        finally:
            if threading.current_thread() is threading.main_thread():
                treat_sigterm_as_ctrl_c()  # Ray's own handler prints a stack and aborts
                atexit.register(leave_ray)  # runs before Ray's own hook, which is older

    def num_gpus(self) -> int:
        """GPUs of the cluster, which is joined for it; of this machine, if Ray is to be started here."""
        if self.is_joined or ray.is_initialized():
            self.start()
            return int(ray.cluster_resources().get("GPU", 0))
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        if visible is not None:
            return len([name for name in visible.split(",") if name.strip()])
        return len(glob.glob("/dev/nvidia[0-9]*"))

    def check_gpus(self, job: RenderJob) -> None:
        """Raise ClusterError for GPUs that this machine does not have; a cluster that is joined can still get them."""
        if not self.is_joined and job.workers.gpus_per_actor > (found := self.num_gpus()):
            raise ClusterError(
                f"workers.gpus_per_actor: this machine has {found} GPUs, got {job.workers.gpus_per_actor:g}; 0 renders "
                "on CPUs, and --address joins a cluster"
            )

    def pool_size(self, job: RenderJob, num_shards: int) -> int:
        """How many actors to ask Ray for: those that have room start now, the others as nodes join."""
        workers, resources = job.workers, ray.cluster_resources()
        if workers.max is not None:
            wanted = workers.max
        elif workers.gpus_per_actor:
            wanted = int(resources.get("GPU", 0) // workers.gpus_per_actor)
        else:
            wanted = int(resources.get("CPU", 1) // CPUS_PER_ACTOR)
        return max(1, workers.min, min(wanted, num_shards))

    def cpus_per_actor(self, job: RenderJob, num_actors: int) -> float:
        """CPUs to ask for with each actor.

        Ray gives a process as many threads as CPUs, so actors without GPUs share all free CPUs. An actor must also fit
        on one node next to what already runs there, or it waits for room forever.
        """
        if job.workers.gpus_per_actor:
            return 1.0
        num_all: float = ray.cluster_resources().get("CPU", 0)
        num_free: float = ray.available_resources().get("CPU", 0)
        largest: float = max(node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"])
        return max(1.0, min(num_free // num_actors, largest - (num_all - num_free)))

    # ---- actors --------------------------------------------------------------------------------------------------

    def start_actor(
        self, job: RenderJob, num_cpus: float, batch_size: int | None = None, avoided_nodes: Collection[str] = ()
    ) -> Handle:
        """Ask Ray for one actor, which may wait for room. Ray never restarts it: retries are the driver's decision."""
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
        actor = ray.remote(self.actor_class).options(**options).remote(job, batch_size)
        return cast("Handle", actor)  # by Ray's own types it could also be the class

    async def wait_until_started(self, handle: Handle) -> None:
        """Wait until Ray has found room for the actor and started its process."""
        await handle.__ray_ready__.remote()

    async def load(self, handle: Handle) -> EngineCard:
        """Let the actor load its engine. Raises what `EngineActor.load` raises."""
        card: EngineCard = await handle.load.remote()
        return card

    async def position_of(self, handle: Handle, timeout: float) -> str:
        """The position of the actor's engine in its code. Raises TimeoutError after `timeout` seconds."""
        return await asyncio.wait_for(asyncio.wrap_future(handle.position.remote().future()), timeout)

    def end_actor(self, handle: Handle) -> None:
        """Kill an actor's process at once, whatever it is doing."""
        ray.kill(handle)

    def steps(
        self, job: RenderJob, progress: Progress, listening: Callable[[Actor], AbstractContextManager[None]]
    ) -> ShardSteps:
        """The steps of a shard's path as tasks of this cluster."""
        return ShardSteps(job, progress, listening)

    def side_task(self, function: Callable[..., T], *arguments: Any) -> SideTask[T]:
        """Call a function on the cluster, next to the actors; arguments may be references that `progress` holds."""
        return SideTask(function, *arguments)

    # ---- room and nodes ------------------------------------------------------------------------------------------

    def num_lacking_room(self, job: RenderJob, num_cpus: float) -> int:
        """How many of the job's actors Ray has no room for now, by the list that Ray keeps for its autoscaler.

        The list leaves out an actor that has its room and is starting its process.
        """
        state = get_cluster_resource_state(internal_kv_get_gcs_client())
        size = {"CPU": num_cpus, "GPU": job.workers.gpus_per_actor}
        counts = [
            pending.count
            for pending in state.pending_resource_requests
            if all(
                math.isclose(pending.request.resources_bundle.get(name, 0), size[name], abs_tol=1e-3) for name in size
            )
        ]
        return sum(counts)

    def describe_room(self, job: RenderJob, num_cpus: float) -> str:
        """What an actor waits for, and what the cluster has of it: a job may wait for what never comes."""
        workers, resources = job.workers, ray.cluster_resources()
        wanted = [_counted(num_cpus, "CPU")] + [_counted(workers.gpus_per_actor, "GPU")] * bool(workers.gpus_per_actor)
        wanted += [f"{ACCELERATOR}{workers.accelerator_type}"] * bool(workers.accelerator_type)
        has = [_counted(resources.get(name, 0), name) for name in ("CPU", "GPU")]
        has += sorted(name for name in resources if name.startswith(ACCELERATOR))
        return f"no actor has room: each asks for {', '.join(wanted)}; the cluster has {', '.join(has)} in all"

    def draining_nodes(self) -> set[str]:
        """The nodes about to go away: after a spot notice, `ray drain-node`, or a scale-down by the autoscaler."""
        return set(ray._private.state.state.get_draining_nodes())  # Ray's own libraries call it; no name is public

    def is_node_alive(self, node_id: str) -> bool:
        """Whether the cluster still has this node."""
        return any(node["Alive"] for node in ray.nodes() if node["NodeID"] == node_id)

    def is_own_node_alive(self) -> bool:
        """Whether the cluster still has the driver's node. Ray mostly ends a driver whose node is lost, not always."""
        return self.is_node_alive(ray.get_runtime_context().get_node_id())


def _counted(num: float, name: str) -> str:
    return f"{num:g} {name}" if num == 1 else f"{num:g} {name}s"
