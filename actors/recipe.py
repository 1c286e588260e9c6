"""The settings that decide pixels: those of one image, and the recipe of a whole job, which has them as defaults."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import ConfigDict


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingSettings:
    """How an image is sampled. The recipe holds the job's values, a request its image's, a manifest row what was used.

    A setting that the model family does not take is None (`match_reference_demo`: False). The manifest's columns and
    the job file's family keys come from these fields, so a new setting is a field here, a key of the job file's
    `sampling` section, and code in the families that take it (`actors.engines.FAMILIES`).

    * `cfg_interval`: [t0, t1] within [0, 1]. Guidance applies only while the sampled fraction of an image is inside;
      None: always. Kynkäänniemi et al., arXiv:2404.07724.
    * `temperature` (Janus): divides the logits before the softmax; 0 takes the most probable code, 1.0 is the
      reference's default.
    * `num_inference_steps` (JanusFlow): steps of the solver from t = 0 to t = 1; 30 is the reference's default.
    * `solver` (JanusFlow): euler (the reference's), heun or midpoint, see `actors.janusflow.sampler`.
    * `match_reference_demo` (JanusFlow): round the time grid to bfloat16, as DeepSeek's public demo does.
    """

    cfg_interval: tuple[float, float] | None = None
    temperature: float | None = None
    num_inference_steps: int | None = None
    solver: str | None = None
    match_reference_demo: bool = False


SAMPLING_SETTINGS = tuple(field.name for field in dataclasses.fields(SamplingSettings))


def sampling_settings(record: SamplingSettings) -> dict[str, Any]:
    """The sampling settings of a recipe or a request by name."""
    return {name: getattr(record, name) for name in SAMPLING_SETTINGS}


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe(SamplingSettings):
    """The resolved model and sampling settings of a job; also what `job.json` pins and a resume must match.

    `checkpoint` is what the user named, `revision` the commit it resolved to (None for a local folder), and
    `weights_sha256` a digest of the weight files themselves. `cfg_weights` has more than one entry in a sweep.
    `sampler` names the algorithm and its version, and changes whenever the same request would get other bytes.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")  # for job.json, see workflows.output.claim

    family: str
    checkpoint: str
    revision: str | None
    weights_sha256: str
    prompt_format: str | None
    vae: str | None
    vae_revision: str | None
    vae_sha256: str | None
    dtype: str
    sampler: str
    cfg_weights: tuple[float, ...]
    images_per_prompt: int
    seed: int
    allow_any_cfg_weight: bool = False

    @property
    def images_per_row(self) -> int:
        """Images of a prompt row that has no weight of its own: every index at every weight."""
        return self.images_per_prompt * len(self.cfg_weights)

    def to_dict(self) -> dict[str, Any]:
        fields = dataclasses.asdict(self)
        return {key: list(value) if isinstance(value, tuple) else value for key, value in fields.items()}
