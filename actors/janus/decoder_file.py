"""The decoder of a Janus checkpoint as a file of its own, for `actors.janus.decode_codes`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from safetensors.torch import save

from actors.checkpoint.models import open_models
from actors.checkpoint.open import check_digest, fetch_checkpoint
from actors.checkpoint.weights import load_weights
from actors.device import DTYPES
from actors.janus.decoder import load_vq_decoder
from actors.janus.network import NOT_NEEDED, original_name, tensor_shapes
from actors.recipe import Recipe

_PREFIX = "gen_vision_model."


def decoder_bytes(recipe: Recipe, storage_options: Mapping[str, Any]) -> bytes:
    """A safetensors file with the decoder that the recipe's images were made with, in the recipe's dtype.

    Raises OtherWeightsError, or CheckpointError if the checkpoint cannot be opened.
    """
    opened, _ = open_models(
        recipe.checkpoint, revision=recipe.revision, adapters=recipe.adapters, storage_options=storage_options
    )
    checkpoint = fetch_checkpoint(opened)
    check_digest(checkpoint, recipe.weights_sha256, since="the images were rendered")
    shapes = tensor_shapes(checkpoint.shape)
    expected = {name: shape for name, shape in shapes.items() if name.startswith(_PREFIX)}
    others = {name: "not of the decoder" for name in shapes if name not in expected}
    weights = load_weights(
        checkpoint,
        expected,
        not_needed=NOT_NEEDED | others,
        rename=original_name if checkpoint.layout == "transformers" else str,
        rename_in_adapters=original_name,
        dtype=DTYPES[recipe.dtype],
        device="cpu",
    )
    decoder = load_vq_decoder(weights, checkpoint.shape.vq)
    facts = {"model": recipe.checkpoint, "revision": recipe.revision, "weights_sha256": recipe.weights_sha256}
    tensors = {name: tensor.contiguous() for name, tensor in decoder.state_dict().items()}
    return save(tensors, metadata={"janus_batch": json.dumps(facts)})
