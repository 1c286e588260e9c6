"""The contestants by name, in the order of their importance, and the process that runs one of them."""

from __future__ import annotations

import importlib
import json
import os
import sys
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Contestant:
    """`function` of a module in this package yields the rows; the seconds are those of an H100 with cold caches."""

    module: str
    function: str
    least_seconds: float
    most_seconds: float


CONTESTANTS = {
    "ceilings": Contestant(module="kernels", function="ceilings", least_seconds=5, most_seconds=40),
    "bytes-janus": Contestant(module="same_bytes", function="janus", least_seconds=30, most_seconds=90),
    "bytes-flow": Contestant(module="same_bytes", function="flow", least_seconds=15, most_seconds=45),
    "janus-1b": Contestant(module="engines", function="janus_1b", least_seconds=35, most_seconds=70),
    "flow": Contestant(module="engines", function="flow", least_seconds=20, most_seconds=50),
    "janus-1b-fp8": Contestant(module="engines", function="janus_1b_fp8", least_seconds=20, most_seconds=60),
    "job": Contestant(module="job", function="job", least_seconds=60, most_seconds=120),
    "janus-7b": Contestant(module="engines", function="janus_7b", least_seconds=35, most_seconds=70),
    "public-loop": Contestant(module="engines", function="public_loop", least_seconds=45, most_seconds=75),
    "kernels": Contestant(module="kernels", function="kernels", least_seconds=20, most_seconds=60),
}


def serve(name: str, *, is_rehearsal: bool) -> None:
    """Import the contestant, wait for the line with what is measured already, and print a row of JSON for each."""
    rows = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print, C libraries too, is no row
    contestant = CONTESTANTS[name]
    module = importlib.import_module(f"benchmarks.gpu.{contestant.module}")
    stage_module = importlib.import_module("benchmarks.gpu.stage")
    line = sys.stdin.readline()
    if not line:
        return  # the referee has ended
    stage = stage_module.open_stage(json.loads(line), is_rehearsal=is_rehearsal)
    for row in getattr(module, contestant.function)(stage):
        print(row.to_json(), file=rows, flush=True)
