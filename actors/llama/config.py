"""The text model's section of a config.json, and the field checks that every family's `config.py` uses. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from actors.errors import CheckpointError, shown

# The defaults of transformers' LlamaConfig. Janus-Pro-7B leaves most settings of its text model to them.
_DEFAULTS = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
}
# The largest values that are read: far above every published model's, and small enough to compute with.
_LARGEST = {
    "vocab_size": 2**20,
    "hidden_size": 2**16,
    "intermediate_size": 2**18,
    "num_hidden_layers": 2**9,
    "num_attention_heads": 2**10,
    "max_position_embeddings": 2**18,
}
MAX_SIZE = 2**16  # the largest of any other whole number
MAX_LAYERS = _LARGEST["num_hidden_layers"]
_PROMPT_TOKENS = 64  # the room that a prompt must have next to an image
_MAX_NUMBER = 1e12  # a rope_theta of 1e7 is large
# Settings that the engines implement one value of.
_FIXED = {"model_type": "llama", "hidden_act": "silu", "attention_bias": False, "mlp_bias": False}


@dataclass(frozen=True, kw_only=True, slots=True)
class LlamaShape:
    """The text model. `num_kv_heads` is below `num_heads` with grouped queries; `context_length` counts positions."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    context_length: int


def read_llama_shape(config: Mapping[str, Any], name: str) -> LlamaShape:
    """The shape of the text model in section `name` of a config.json, in either layout. Raises CheckpointError."""
    llama = section(config, name)
    for key, value in _FIXED.items():
        require(llama, key, value, name, default=value)
    values = {key: integer(llama, key, default, name, largest=_LARGEST[key]) for key, default in _DEFAULTS.items()}
    num_heads = values["num_attention_heads"]
    num_kv_heads = integer(llama, "num_key_value_heads", num_heads, name)
    if num_heads > values["hidden_size"]:
        raise CheckpointError(f"{name}: {num_heads} attention heads do not fit into {values['hidden_size']} channels")
    head_dim = integer(llama, "head_dim", values["hidden_size"] // num_heads, name)
    if num_heads % num_kv_heads or head_dim % 2:
        raise CheckpointError(
            f"{name}: {num_heads} attention heads must be a multiple of {num_kv_heads} key/value heads, "
            f"and a head's {head_dim} channels must be even"
        )
    return LlamaShape(
        vocab_size=values["vocab_size"],
        hidden_size=values["hidden_size"],
        intermediate_size=values["intermediate_size"],
        num_layers=values["num_hidden_layers"],
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        rms_norm_eps=number(llama, "rms_norm_eps", 1e-6, name),
        rope_theta=_rope_theta(llama, name),
        context_length=values["max_position_embeddings"],
    )


def is_head_tied(config: Mapping[str, Any], layout: str | None) -> bool:
    """Whether a missing text head is the table of input embeddings, by the config.json of a checkpoint of this layout.

    transformers ties them by default, DeepSeek's code does not.
    """
    is_transformers = layout == "transformers"
    text = section(config, "text_config" if is_transformers else "language_config", default={})
    return text.get("tie_word_embeddings", config.get("tie_word_embeddings", is_transformers)) is True


def check_image_fits(num_tokens: int, image_size: int, llama: LlamaShape) -> None:
    """Raise CheckpointError unless an image's tokens leave room for a prompt in the text model's context."""
    if not 0 < num_tokens <= llama.context_length - _PROMPT_TOKENS:
        raise CheckpointError(
            f"an image of {image_size} pixels per side needs {num_tokens} tokens, and a prompt {_PROMPT_TOKENS}; "
            f"together they must fit into the {llama.context_length} positions of the text model "
            "(max_position_embeddings)"
        )


def _rope_theta(llama: Mapping[str, Any], name: str) -> float:
    """The base of the rotary embedding, from `rope_theta` or from transformers 5's `rope_parameters`."""
    for key in ("rope_scaling", "rope_parameters"):
        part = section(llama, key, name, default={})
        for kind in ("rope_type", "type"):  # older versions of transformers write `type`
            require(part, kind, "default", f"{name}.{key}", default="default")
    parameters = section(llama, "rope_parameters", name, default={})
    return number(parameters, "rope_theta", number(llama, "rope_theta", 10000.0, name), f"{name}.rope_parameters")


# ---- field checks: `parent` is a section of config.json and `name` its dotted path, for messages -------------------


def section(
    parent: Mapping[str, Any], key: str, name: str = "", *, default: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The object under `key`, or the default where it is missing or null. Raises CheckpointError."""
    value = default if parent.get(key) is None else parent[key]
    if not isinstance(value, dict):
        raise CheckpointError(f"config.json must hold an object {f'{name}.{key}' if name else key}, got {shown(value)}")
    return value


def integer(parent: Mapping[str, Any], key: str, default: int, name: str, *, largest: int = MAX_SIZE) -> int:
    """The positive whole number under `key`, or the default where it is missing or null. Raises CheckpointError."""
    value = default if parent.get(key) is None else parent[key]
    if not _is_size(value, largest):
        raise CheckpointError(f"{name}.{key} must be a positive whole number of at most {largest}, got {shown(value)}")
    return int(value)


def integers(parent: Mapping[str, Any], key: str, default: tuple[int, ...], name: str) -> tuple[int, ...]:
    """The list of up to 16 positive whole numbers under `key`, or the default. Raises CheckpointError."""
    values = list(default) if parent.get(key) is None else parent[key]
    if not isinstance(values, list) or not 1 <= len(values) <= 16 or not all(_is_size(v, MAX_SIZE) for v in values):
        raise CheckpointError(
            f"{name}.{key} must be a list of 1 to 16 positive whole numbers of at most {MAX_SIZE}, got {shown(values)}"
        )
    return tuple(values)


def number(parent: Mapping[str, Any], key: str, default: float, name: str) -> float:
    """The positive number under `key`, or the default. Raises CheckpointError."""
    value = default if parent.get(key) is None else parent[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= _MAX_NUMBER:
        raise CheckpointError(f"{name}.{key} must be a positive number of at most {_MAX_NUMBER:g}, got {shown(value)}")
    return float(value)


def _is_size(value: object, largest: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= largest


_NO_DEFAULT = object()


def require(parent: Mapping[str, Any], key: str, allowed: Any, name: str, *, default: Any = _NO_DEFAULT) -> None:
    """Raise CheckpointError unless the setting, or its default where it is missing, is the one allowed value."""
    value = parent.get(key, default)
    if value is _NO_DEFAULT or value != allowed:
        found = "nothing" if value is _NO_DEFAULT else shown(value)
        raise CheckpointError(f"{name}.{key} must be {allowed!r}, the only one these engines implement; got {found}")
