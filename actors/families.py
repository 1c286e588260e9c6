"""The table of model families: one entry holds every fact that code outside a family's package needs. No torch.

A new family is one package and one entry here, see docs/adding-a-model-family.md.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast

ROOFLINE = "limit by roofline, not measured"
LOOKER, LOOKER_VERSION = "actors.understanding.looker:Looker", "look-1"  # of both families with a vision tower


class Shape(Protocol):
    """The sizes of a model, as `read_shape` of its family returns them."""

    @property
    def image_size(self) -> int:
        """Pixels per side."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """The layout of a recognized config.json. A `prompt_format` of None means the family's default."""

    layout: Literal["original", "transformers"]
    prompt_format: str | None = None


class FamilyConfig(Protocol):
    """The module `config.py` of a family's package. It imports no torch."""

    def identify(self, config: Mapping[str, Any], hub_id: str | None) -> Identity | None:
        """The identity of this config.json; None if it belongs to another family."""

    def read_shape(self, config: Mapping[str, Any]) -> Shape:
        """The model's sizes. Raises CheckpointError for a setting that the engine does not implement."""

    def check_vae(self, config: Mapping[str, Any], name: str, shape: Any) -> None:
        """Raise CheckpointError unless the autoencoder fits the model. Only for a family that decodes with one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownSpeed:
    """Images per second of one GPU at 384 x 384, guided, prompts of 32 tokens, in batches of `batch` (None: any size).

    A model is recognized by the sizes of its text model.
    """

    model: str
    hidden_size: int
    num_layers: int
    device: str
    batch: int | None
    images_per_second: float
    source: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """The facts of a family.

    * `engine`: the engine's class, as `module:Class`.
    * `config`: the module that reads the family's config.json (see FamilyConfig). None: the family has no checkpoint,
      and a job file names it by the name of the family.
    * `checkpoints`: which checkpoints the family renders, for messages.
    * `sampler`: the algorithm and its version. It is written into every manifest row, and changes whenever the same
      request would give other bytes.
    * `default_cfg_weight`, `settings`: the default guidance weight, and the sampling settings that the family takes in
      addition to the common ones, with their defaults.
    * `default_prompt_format`: the role tags of a prompt (see actors/prompt/). None: the family has no template.
    * `suggested_vae`: the autoencoder to suggest where a checkpoint holds none. None: the family needs none.
    * `keeps`: what an image is decoded from and can be decoded from again.
    * `has_kv_cache`: whether `model.kv_cache` applies: the engine attends to a cache at every step.
    * `writes_text`: whether `model.protocol` applies: the engine can write a text before an image.
    * `image_size`: pixels per side, where there is no checkpoint to say it.
    * `known_speeds`: for `janus-batch plan`.
    * `decoder_file`: the function that makes a file of the decoder of codes (its interface:
      `actors.janus.decoder_file.decoder_bytes`); `decode_script`: the script below `actors` that decodes with this
      file. None: an image has no codes.
    * `looker`: the class that looks at images with a checkpoint of this family, as `module:Class` (its interface:
      `actors.understanding.judging.Looker`); `looker_version`: its algorithm and version, like `sampler`. None: the
      family only renders.
    """

    engine: str
    config: str | None = None
    checkpoints: str = ""
    sampler: str
    default_cfg_weight: float
    settings: Mapping[str, float | int | str]
    default_prompt_format: str | None = None
    suggested_vae: str | None = None
    keeps: Literal["codes", "latents"] = "codes"
    has_kv_cache: bool = False
    writes_text: bool = False
    image_size: int | None = None
    known_speeds: tuple[KnownSpeed, ...] = ()
    decoder_file: str | None = None
    decode_script: str | None = None
    looker: str | None = None
    looker_version: str = ""

    @property
    def decodes_with_vae(self) -> bool:
        return self.suggested_vae is not None

    def load_engine_class(self) -> Callable[..., Any]:
        """The engine's class. Importing it may load torch."""
        return _load(self.engine)

    def load_decoder_file(self) -> Callable[..., bytes]:
        """The function that makes a file of the decoder. Importing it loads torch. Only for a family with codes."""
        assert self.decoder_file is not None
        return _load(self.decoder_file)

    def load_looker_class(self) -> Callable[..., Any]:
        """The looker's class. Importing it may load torch. Only for a family that has one."""
        assert self.looker is not None
        return _load(self.looker)

    def load_config(self) -> FamilyConfig:
        """The family's `config.py`. Only for a family with checkpoints."""
        assert self.config is not None
        return cast("FamilyConfig", importlib.import_module(self.config))


def _load(name: str) -> Callable[..., Any]:
    """What `module:Class` names."""
    module, _, attribute = name.partition(":")
    return cast("Callable[..., Any]", getattr(importlib.import_module(module), attribute))


def _limit(model: str, hidden_size: int, num_layers: int, batch: int | None, images_per_second: float) -> KnownSpeed:
    """Nothing can be faster: 4.3 TB/s (a measured copy) and 790 TFLOP/s (a measured bfloat16 product) of one H200."""
    return KnownSpeed(
        model=model,
        hidden_size=hidden_size,
        num_layers=num_layers,
        device="H200",
        batch=batch,
        images_per_second=images_per_second,
        source=ROOFLINE,
    )


FAMILIES: dict[str, Family] = {
    "janus": Family(
        engine="actors.janus.engine:JanusEngine",
        decoder_file="actors.janus.decoder_file:decoder_bytes",
        decode_script="janus/decode_codes.py",
        config="actors.janus.config",
        checkpoints="Janus and Janus-Pro (model_type multi_modality with a gen_vision_config, or model_type janus)",
        sampler="janus-3",
        default_cfg_weight=5.0,
        settings={"temperature": 1.0},
        default_prompt_format="janus-pro",
        has_kv_cache=True,
        writes_text=True,
        looker=LOOKER,
        looker_version=LOOKER_VERSION,
        known_speeds=(
            _limit("Janus-1.3B, Janus-Pro-1B", 2048, 24, 16, 24.8),
            _limit("Janus-1.3B, Janus-Pro-1B", 2048, 24, 128, 43.8),
            _limit("Janus-Pro-7B", 4096, 30, 16, 6.8),
            _limit("Janus-Pro-7B", 4096, 30, 128, 15.9),
        ),
    ),
    "janusflow": Family(
        engine="actors.janusflow.engine:JanusFlowEngine",
        config="actors.janusflow.config",
        checkpoints="JanusFlow (model_type multi_modality with a vision_gen_enc_config)",
        sampler="janusflow-2",
        default_cfg_weight=2.0,
        settings={"num_inference_steps": 30, "solver": "euler", "match_reference_demo": False},
        default_prompt_format="janus",
        suggested_vae="stabilityai/sdxl-vae",
        keeps="latents",
        looker=LOOKER,
        looker_version=LOOKER_VERSION,
        known_speeds=(_limit("JanusFlow-1.3B", 2048, 24, None, 8.6),),
    ),
    "toy": Family(
        engine="actors.toy:ToyEngine",
        sampler="toy-1",
        default_cfg_weight=5.0,
        settings={"temperature": 1.0},
        image_size=64,
        looker="actors.toy:ToyLooker",
        looker_version="toy-look-1",
    ),
}
