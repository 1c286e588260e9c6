"""What decides the pixels of a whole job, apart from the prompts: two jobs of one recipe make the same images."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """The resolved model and sampling settings of a job; also what `job.json` pins and a resume must match.

    `checkpoint` is what the user named, `revision` the commit it resolved to (None for a local folder), and
    `weights_sha256` a digest of the weight files themselves. `cfg_weights` has more than one entry in a sweep.
    Guidance acts only while the sampled fraction of an image lies in `cfg_interval` (None: always). `solver` and
    `match_reference_demo` (the demo's bfloat16 time grid) belong to JanusFlow.
    `sampler` names the algorithm and its version, and changes whenever the same request would get other bytes.
    """

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
    temperature: float | None
    num_inference_steps: int | None
    images_per_prompt: int
    seed: int
    cfg_interval: tuple[float, float] | None = None
    solver: str | None = None
    match_reference_demo: bool = False
    allow_any_cfg_weight: bool = False

    @property
    def images_per_row(self) -> int:
        """Images of a prompt row that has no weight of its own: every index at every weight."""
        return self.images_per_prompt * len(self.cfg_weights)

    def to_dict(self) -> dict[str, Any]:
        fields = dataclasses.asdict(self)
        return {key: list(value) if isinstance(value, tuple) else value for key, value in fields.items()}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Recipe:
        """Raises TypeError for fields that are not a recipe's, and ValueError for a value of another type."""
        cls(**fields)  # pydantic would pass over a field that is not a recipe's
        try:
            return TypeAdapter(cls).validate_json(json.dumps(fields), strict=True)
        except ValidationError as error:
            fault = error.errors()[0]
            place = ".".join(map(str, fault["loc"]))
            raise ValueError(f"recipe.{place}: {fault['msg']}, got {fault['input']!r}") from error
