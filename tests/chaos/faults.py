"""The faults of a round, drawn from a seed so that a round can be repeated."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from tests.chaos.machines import ACTOR, ANY_TASK, Machines
from tests.support.servers.faulty_proxy import at_random

GAP_SECONDS = (0.3, 3.0)
AWAY_SECONDS = (0.2, 4.0)
FAULT_RATE = 0.3


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """A fault of this `kind` after `gap` seconds; `seed` draws its victim and its duration."""

    gap: float
    kind: str
    seed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Targets:
    """Everything that can be killed at this moment."""

    machines: Machines
    driver: subprocess.Popen[str]


def draw_faults(seed: int, number: int, num_faults: int, *, keeps_objects: bool) -> list[Fault]:
    """The faults of a round. A store that loses its objects when it is killed is not killed."""
    chance = random.Random(f"{seed}/{number}")
    kinds = [kind for kind in FAULTS if keeps_objects or kind != "store"]
    weights = [WEIGHTS.get(kind, 1.0) for kind in kinds]
    return [
        Fault(gap=chance.uniform(*GAP_SECONDS), kind=kind, seed=chance.randrange(2**32))
        for kind in chance.choices(kinds, weights, k=num_faults)
    ]


def cause(fault: Fault, targets: Targets) -> bool:
    """Cause the fault. False if there was no victim."""
    return FAULTS[fault.kind](targets, random.Random(fault.seed))


def _kill_actor(targets: Targets, chance: random.Random) -> bool:
    return _signal_one(targets.machines.processes(ACTOR), chance, signal.SIGKILL)


def _kill_task(targets: Targets, chance: random.Random) -> bool:
    return _signal_one(targets.machines.processes(*ANY_TASK), chance, signal.SIGKILL)


def _freeze_actor(targets: Targets, chance: random.Random) -> bool:
    actors = targets.machines.processes(ACTOR)
    if not actors:
        return False
    with _stopped(chance.choice(actors)):
        time.sleep(chance.uniform(*AWAY_SECONDS))
    return True


def _cut_node(targets: Targets, chance: random.Random) -> bool:
    targets.machines.replace_node(chance)
    return True


def _cut_cluster(targets: Targets, chance: random.Random) -> bool:
    targets.machines.replace_cluster()
    return True


def _kill_driver(targets: Targets, chance: random.Random) -> bool:
    return _signal_one([targets.driver.pid], chance, signal.SIGKILL)


def _end_driver(targets: Targets, chance: random.Random) -> bool:
    return _signal_one([targets.driver.pid], chance, signal.SIGTERM)


def _kill_store(targets: Targets, chance: random.Random) -> bool:
    targets.machines.store.kill()
    time.sleep(chance.uniform(*AWAY_SECONDS))
    targets.machines.store.start()
    return True


def _freeze_store(targets: Targets, chance: random.Random) -> bool:
    targets.machines.store.pause()
    time.sleep(chance.uniform(*AWAY_SECONDS))
    targets.machines.store.resume()
    return True


def _disturb_store(targets: Targets, chance: random.Random) -> bool:
    """Give every third request a busy answer, a broken connection, a lost answer or a slow one."""
    proxy = targets.machines.proxy
    calm, proxy.choose = proxy.choose, at_random(chance.randrange(2**32), FAULT_RATE)
    time.sleep(chance.uniform(*AWAY_SECONDS))
    proxy.choose = calm
    return True


# Each fault by its name in the table.
FAULTS: dict[str, Callable[[Targets, random.Random], bool]] = {
    "actor": _kill_actor,
    "task": _kill_task,
    "actor frozen": _freeze_actor,
    "node": _cut_node,
    "cluster": _cut_cluster,
    "driver": _kill_driver,
    "driver SIGTERM": _end_driver,
    "store": _kill_store,
    "store frozen": _freeze_store,
    "store faults": _disturb_store,
}
WEIGHTS = {"actor": 4.0, "task": 2.0, "node": 2.0, "driver": 1.5, "cluster": 0.4, "driver SIGTERM": 0.5}


def _signal_one(pids: list[int], chance: random.Random, number: int) -> bool:
    if not pids:
        return False
    with suppress(ProcessLookupError):
        os.kill(chance.choice(pids), number)
        return True
    return False


@contextmanager
def _stopped(pid: int) -> Iterator[None]:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
    yield
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)
