"""The settings that decide the pixels: those of one image, and the recipe of a whole job."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, Field, TypeAdapter

from actors.prompt.template import PromptTemplate

PROMPT_FIELD = "{prompt}"  # in the judge's question
CAPTION_QUESTION, CAPTION_TOKENS = "Describe this image in one sentence.", 64  # what captions answer, and their length
_YES_OR_NO = re.compile(r"\byes\s+or\s+no\b", re.IGNORECASE)


def _is_none(value: object) -> bool:
    return value is None


# Of a recipe; absent from `job.json` unless a job has them.
_OPTIONAL_PARTS = ("prompt_template", "protocol", "adapters", "judge", "look")


def _is_empty(value: tuple[object, ...]) -> bool:
    return not value


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingSettings:
    """How one image is sampled. A job's recipe holds the defaults, a request and a manifest row the image's own values.

    The manifest's columns and the job file's family keys are derived from these fields. A new setting is a field here,
    a key of the job file's `sampling` section, and code in the families that take it (`actors.families.FAMILIES`). A
    setting that a family does not take is None, or False for `match_reference_demo`.

    * `cfg_interval`: [t0, t1] with 0 <= t0 < t1 <= 1. Guidance applies only while the sampled fraction of the image
      lies in it; None means always. See Kynkäänniemi et al., arXiv:2404.07724.
    * `temperature` (Janus): divides the logits before the softmax; 0 takes the most probable code. The reference
      implementation uses 1.0.
    * `num_inference_steps` (JanusFlow): steps of the solver from t = 0 to t = 1. The reference implementation uses 30.
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
class Judge:
    """How a job looks at its images. Part of its recipe, because the scores decide which candidates are kept.

    * `question`: what is asked about each candidate; `{prompt}` is replaced by the image's prompt.
    * `best_of`: candidates of one try. `retry_below`: an image whose best candidate scores lower gets another try, up
      to `max_tries` in all; None means one try.
    * `caption_tokens`: the longest caption of a kept image, in tokens; None means no captions.
    * `family`, `checkpoint`, `revision`, `weights_sha256`, `prompt_format`: the model that looks, as in `Recipe`.
    * `is_own`: it is the model that renders the images, with its adapters; its weights are in memory once.
    * `looker`: the algorithm and its version. It changes whenever the same image and question would get other scores.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")  # for job.json, see workflows.output.claim

    question: str
    best_of: int = 1
    retry_below: float | None = None
    max_tries: int = 1
    caption_tokens: int | None = None
    family: str
    checkpoint: str
    revision: str | None
    weights_sha256: str
    prompt_format: str | None
    is_own: bool
    looker: str

    @property
    def max_candidates(self) -> int:
        """The most candidates that an image can have."""
        return self.best_of * self.max_tries

    def question_about(self, prompt: str) -> str:
        """The question for an image of this prompt."""
        return self.question.replace(PROMPT_FIELD, prompt.strip())


@dataclass(frozen=True, kw_only=True, slots=True)
class Adapter:
    """A LoRA adapter that is merged into the checkpoint's weights.

    * `name`: as the user named it; `revision`: the commit it resolved to; `sha256`: a digest of its settings and
      weights, empty as long as it is not known.
    * `weight`: the factor of what the adapter adds.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")  # for job.json, see workflows.output.claim

    name: str
    revision: str | None = None
    sha256: str = ""
    weight: float = 1.0


_ADAPTERS = TypeAdapter(tuple[Adapter, ...])


def adapters_to_json(adapters: tuple[Adapter, ...]) -> str | None:
    """Adapters as a manifest row holds them; None if there are none."""
    return _ADAPTERS.dump_json(adapters).decode() if adapters else None


def adapters_from_json(text: str | None) -> tuple[Adapter, ...]:
    """The adapters of a manifest row. Raises ValueError."""
    return _ADAPTERS.validate_json(text) if text else ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """How a job looks at images of the user instead of rendering. Part of its recipe, because it decides the answers.

    * `question`: what is asked about an image whose row asks nothing. `max_tokens`: the longest answer.
    * `scores_all`: score every question; otherwise those that ask for yes or no.
    * `root`: the folder that relative locations of images are relative to.
    * `image_size`, `min_side`, `ground`: how images become square, see `actors.understanding.pixels.to_square`.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")  # for job.json, see workflows.output.claim

    question: str
    max_tokens: int
    scores_all: bool
    root: str
    image_size: int
    min_side: int
    ground: tuple[int, int, int]

    def scores(self, question: str) -> bool:
        """Whether the probability of yes is part of the answer to this question."""
        return self.scores_all or _YES_OR_NO.search(question) is not None


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe(SamplingSettings):
    """The resolved model and sampling settings of a job. `job.json` pins them, and a resume must have the same ones.

    * `checkpoint`: as the user named it; `revision`: the commit it resolved to (None for a local folder);
      `weights_sha256`: a digest of the weight files. `vae`, `vae_revision` and `vae_sha256`: the same for the VAE.
    * `prompt_format`: the role tags around a prompt; `prompt_template`: the whole text around it, if the job gives it.
    * `protocol`: the text that the model writes before an image, a key of `actors.prompt.protocol.PROTOCOLS`.
    * `adapters`: merged into the checkpoint's weights, in this order.
    * `dtype`: what the model computes in; `kv_cache`: fp8 for keys and values in 8 bits, None for those of `dtype`.
    * `sampler`: the algorithm and its version. It changes whenever the same request would get other bytes.
    * `cfg_weights`: the guidance weights; more than one in a sweep. `allow_any_cfg_weight` lifts their limits.
    * `images_per_prompt`, `seed`: images per prompt and weight, and the seed from which their seeds are derived.
    * `judge`: how candidates are judged; None, and then absent from `job.json`, if the job looks at no image.
    * `look`: how the job looks at images of the user; None, and then absent from `job.json`, if the job renders.
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
    kv_cache: str | None = None
    prompt_template: Annotated[PromptTemplate | None, Field(exclude_if=_is_none)] = None
    protocol: Annotated[str | None, Field(exclude_if=_is_none)] = None
    adapters: Annotated[tuple[Adapter, ...], Field(exclude_if=_is_empty)] = ()
    judge: Annotated[Judge | None, Field(exclude_if=_is_none)] = None
    look: Annotated[Look | None, Field(exclude_if=_is_none)] = None

    @property
    def images_per_row(self) -> int:
        """Images of a prompt row without a guidance weight of its own: every index at every weight."""
        return self.images_per_prompt * len(self.cfg_weights)

    def to_dict(self) -> dict[str, Any]:
        """The fields as `job.json` has them: lists in place of tuples, and optional parts only where they exist."""
        fields = {key: value for key, value in dataclasses.asdict(self).items() if value or key not in _OPTIONAL_PARTS}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in fields.items()}
