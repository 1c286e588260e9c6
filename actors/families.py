"""The table of model families. Importing this module imports no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """The facts of a family that a job file is checked against.

    `engine` is `module:class`. `sampler` names the algorithm and its version and is written into every manifest row:
    it changes when the same request would get other bytes. `settings` are the sampling keys the family takes beside
    the common ones, with their defaults, `dtypes` what its models run in.
    """

    engine: str
    sampler: str
    default_cfg_weight: float
    settings: dict[str, float | int | str]
    dtypes: tuple[str, ...] = ("float32", "bfloat16")


FAMILIES: dict[str, Family] = {
    "janus": Family(
        engine="actors.janus.engine:JanusEngine",
        sampler="janus-3",
        default_cfg_weight=5.0,
        settings={"temperature": 1.0},
        dtypes=("float32", "bfloat16", "fp8"),
    ),
    "janusflow": Family(
        engine="actors.janusflow.engine:JanusFlowEngine",
        sampler="janusflow-2",
        default_cfg_weight=2.0,
        settings={"num_inference_steps": 30, "solver": "euler", "match_reference_demo": False},
    ),
    "toy": Family(
        engine="actors.toy:ToyEngine",
        sampler="toy-1",
        default_cfg_weight=5.0,
        settings={"temperature": 1.0},
    ),
}
