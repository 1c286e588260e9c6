"""The text model's section of a config.json, and the field checks that every family's `config.py` uses. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from actors.errors import CheckpointError

# The defaults of transformers' LlamaConfig. Janus-Pro-7B leaves most settings of its text model to them.
_DEFAULTS = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
}
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
    values = {key: integer(llama, key, default, name) for key, default in _DEFAULTS.items()}
    num_heads = values["num_attention_heads"]
    num_kv_heads = integer(llama, "num_key_value_heads", num_heads, name)
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


def _rope_theta(llama: Mapping[str, Any], name: str) -> float:
    """The base of the rotary embedding, from `rope_theta` or from transformers 5's `rope_parameters`."""
    require(llama, "rope_scaling", None, name, default=None)
    parameters = llama.get("rope_parameters") or {}
    require(parameters, "rope_type", "default", f"{name}.rope_parameters", default="default")
    return number(parameters, "rope_theta", number(llama, "rope_theta", 10000.0, name), f"{name}.rope_parameters")


# ---- field checks: `parent` is a section of config.json and `name` its dotted path, for messages -------------------


def section(parent: Mapping[str, Any], key: str, name: str = "") -> dict[str, Any]:
    """The object under `key`. Raises CheckpointError where there is none."""
    value = parent.get(key)
    if not isinstance(value, dict):
        raise CheckpointError(f"config.json must hold an object {f'{name}.{key}' if name else key}, got {value!r}")
    return value


def integer(parent: Mapping[str, Any], key: str, default: int, name: str) -> int:
    """The positive whole number under `key`, or the default where it is missing or null. Raises CheckpointError."""
    value = default if parent.get(key) is None else parent[key]
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise CheckpointError(f"{name}.{key} must be a positive whole number, got {value!r}")
    return value


def integers(parent: Mapping[str, Any], key: str, default: tuple[int, ...], name: str) -> tuple[int, ...]:
    """The list of positive whole numbers under `key`, or the default. Raises CheckpointError."""
    values = parent.get(key) or list(default)
    if not isinstance(values, list) or any(isinstance(v, bool) or not isinstance(v, int) or v < 1 for v in values):
        raise CheckpointError(f"{name}.{key} must be a list of positive whole numbers, got {values!r}")
    return tuple(values)


def number(parent: Mapping[str, Any], key: str, default: float, name: str) -> float:
    """The positive number under `key`, or the default. Raises CheckpointError."""
    value = default if parent.get(key) is None else parent[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise CheckpointError(f"{name}.{key} must be a positive number, got {value!r}")
    return float(value)


_NO_DEFAULT = object()


def require(parent: Mapping[str, Any], key: str, allowed: Any, name: str, *, default: Any = _NO_DEFAULT) -> None:
    """Raise CheckpointError unless the setting, or its default where it is missing, is the one allowed value."""
    value = parent.get(key, default)
    if value is _NO_DEFAULT or value != allowed:
        found = "nothing" if value is _NO_DEFAULT else repr(value)
        raise CheckpointError(f"{name}.{key} must be {allowed!r}, the only one these engines implement; got {found}")
