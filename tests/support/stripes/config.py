"""Reads the config.json of a stripes checkpoint. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from actors.families import Identity
from actors.llama.config import integer


@dataclass(frozen=True, kw_only=True, slots=True)
class StripesShape:
    """Square images of `image_size` pixels per side, and a palette of `num_colors`."""

    image_size: int
    num_colors: int


def identify(config: Mapping[str, Any], hub_id: str | None) -> Identity | None:
    return Identity(layout="original") if config.get("model_type") == "stripes" else None


def read_shape(config: Mapping[str, Any]) -> StripesShape:
    return StripesShape(
        image_size=integer(config, "image_size", 64, "config.json"),
        num_colors=integer(config, "num_colors", 16, "config.json"),
    )
