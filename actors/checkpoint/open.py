"""What a checkpoint is, before any of its weights are read: family, layout, files, digest. No torch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.checkpoint.config import identify, read_shape
from actors.checkpoint.files import TEXT_MODEL_STEMS, VAE_STEMS, StoredFile, find_weight_files, read_json
from actors.checkpoint.folder import Folder, find_folder
from actors.checkpoint.shape import FlowShape
from actors.checkpoint.vae_config import check_vae_config, is_vae_config
from actors.errors import CheckpointError, NoSuchFolder

PROMPT_FORMATS = ("janus", "janus-pro")
_DEFAULT_VAE = "stabilityai/sdxl-vae"


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """A checkpoint as its config.json and its listing describe it.

    `name` is what the user wrote and `revision` the commit it resolved to (None unless it is a hub id). `family` is
    janus, janusflow, toy or vae; `layout` original, transformers or diffusers (None for toy). `prompt_format` is janus
    or janus-pro (None for toy and vae). `files` are all the files a render reads, `weight_files` the names of those
    that hold weights, sorted. `context_length` counts the text model's positions (None for toy and vae).
    """

    name: str
    revision: str | None
    family: str
    layout: str | None
    prompt_format: str | None
    config: Mapping[str, Any]
    files: tuple[StoredFile, ...]
    weight_files: tuple[str, ...]
    context_length: int | None


def open_checkpoint(
    name: str,
    *,
    revision: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
    prompt_format: str | None = None,
) -> Checkpoint:
    """Find a checkpoint and say what it is, from its config.json and its listing alone.

    `name` is `toy`, a bundled name, a local folder, a URL of a folder that fsspec opens with `storage_options`, or a
    hub id, whose `revision` is pinned to a commit. Family and layout follow from the content of config.json.

    `prompt_format` is the pair of role tags the model was trained with; the wrong pair makes worse pictures and no
    error. Where it is not given: JanusFlow means janus; the transformers layout means janus-pro (no Janus-1.3B is
    published in it); the original layout means janus-pro, except for Janus-1.3B. Its config.json does not name it: it
    is known by its hub id, or by marks that no Janus-Pro config.json has: a text model that asks for an
    `_attn_implementation`, or a `transformers_version` of 4.38.2 without `architectures` (Janus-Pro: 4.33.1). A model
    trained further from Janus-1.3B and saved again has lost these marks: give its format.

    Raises CheckpointError for anything that cannot be rendered with: no such folder, no model in it, another family,
    missing files, a setting the engines do not implement.
    """
    if prompt_format not in (None, *PROMPT_FORMATS):
        raise CheckpointError(f"prompt_format must be one of {', '.join(PROMPT_FORMATS)}, got {prompt_format!r}")
    if name == "toy":
        return _toy()
    folder = find_folder(name, revision=revision, storage_options=storage_options)
    config = read_json(folder, "config.json")
    family, layout = identify(config) or _refuse(name, config)
    index, weight_files = find_weight_files(folder, TEXT_MODEL_STEMS)
    return Checkpoint(
        name=name,
        revision=folder.revision,
        family=family,
        layout=layout,
        prompt_format=prompt_format or _prompt_format(folder, family, layout, config),
        config=config,
        files=_stored(folder, ["config.json", "tokenizer.json", index, *weight_files, *_settings_files(folder)]),
        weight_files=weight_files,
        context_length=read_shape(config).llama.context_length,
    )


def open_vae(
    name: str | None,
    checkpoint: Checkpoint,
    *,
    revision: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> Checkpoint:
    """Find the autoencoder that turns a JanusFlow checkpoint's latents into pixels: a diffusers AutoencoderKL folder.

    `name` is given as a checkpoint's is; None means the folder `vae` inside the checkpoint, and the name that stands
    in the answer then leads there. Raises CheckpointError where there is no autoencoder, or where it decodes other
    latents than the checkpoint makes.
    """
    flow = read_shape(dict(checkpoint.config))
    if not isinstance(flow, FlowShape):
        raise CheckpointError(f"model.vae belongs to JanusFlow; {checkpoint.name} ({checkpoint.family}) has its own")
    folder = _vae_folder(name, checkpoint, revision, storage_options)
    config = read_json(folder, "config.json")
    check_vae_config(config, folder.name, flow)
    index, weight_files = find_weight_files(folder, VAE_STEMS)
    return Checkpoint(
        name=folder.name,
        revision=folder.revision,
        family="vae",
        layout="diffusers",
        prompt_format=None,
        config=config,
        files=_stored(folder, ["config.json", index, *weight_files]),
        weight_files=weight_files,
        context_length=None,
    )


def weights_digest(checkpoint: Checkpoint, storage_options: Mapping[str, Any] | None = None) -> str:
    """One SHA-256 for all weight files, as hex: what `sha256sum FILES | sha256sum` prints in the model's folder.

    That is the hash of a line `<hash of the file>  <name>` for each file, sorted by name. The hub says the files'
    hashes; a local file is read once per process, a file at a URL on every call.
    """
    if not checkpoint.weight_files:
        return hashlib.sha256().hexdigest()
    known = {file.name: file.sha256 for file in checkpoint.files}
    folder = find_folder(checkpoint.name, revision=checkpoint.revision, storage_options=storage_options)
    lines = [f"{known[name] or folder.sha256(name)}  {name}\n" for name in sorted(checkpoint.weight_files)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def fetch_checkpoint(name: str, revision: str | None = None, storage_options: Mapping[str, Any] | None = None) -> Path:
    """A folder on this machine's disk with every file a render reads; what is elsewhere is downloaded once.

    Works for checkpoints and for autoencoders alike, with the `name` and `revision` that `open_checkpoint` or
    `open_vae` answered. Raises CheckpointError; its kind CheckpointUnreachable may pass.
    """
    folder = find_folder(name, revision=revision, storage_options=storage_options)
    config = read_json(folder, "config.json")
    is_vae = is_vae_config(config)
    index, weight_files = find_weight_files(folder, VAE_STEMS if is_vae else TEXT_MODEL_STEMS)
    names = ["config.json", index, *weight_files]
    if not is_vae:
        names += ["tokenizer.json", *_settings_files(folder)]
    files = _stored(folder, names)
    return folder.fetch([file.name for file in files])


def _settings_files(folder: Folder) -> list[str]:
    """Files about the tokenizer that no render needs and that `actors.checkpoint.doctor` looks at."""
    present = folder.files()
    return [name for name in ("tokenizer_config.json", "special_tokens_map.json") if name in present]


def _stored(folder: Folder, names: list[str | None]) -> tuple[StoredFile, ...]:
    files = folder.files()
    missing = [name for name in names if name and name not in files]
    if missing:
        raise CheckpointError(f"{folder.name} is incomplete: it holds no {', '.join(missing)}")
    return tuple(files[name] for name in names if name)


def _prompt_format(folder: Folder, family: str, layout: str, config: Mapping[str, Any]) -> str:
    """The role tags a checkpoint was trained with, by the rule that `open_checkpoint` states."""
    if family == "janusflow":
        return "janus"
    if layout == "transformers":
        return "janus-pro"
    is_hub_id = folder.revision is not None
    is_janus_1_3b = (
        (is_hub_id and folder.name.endswith("/Janus-1.3B"))
        or "_attn_implementation" in config["language_config"]
        or (config.get("transformers_version") == "4.38.2" and "architectures" not in config)
    )
    return "janus" if is_janus_1_3b else "janus-pro"


def _refuse(name: str, config: Mapping[str, Any]) -> tuple[str, str]:
    kind = config.get("model_type") or config.get("_class_name")
    without = " without an image generator" if kind == "multi_modality" else ""
    raise CheckpointError(
        f"{name} is a model of type {kind!r}{without}; allowed are Janus, Janus-Pro and JanusFlow (multi_modality), "
        "and Janus-Pro in the transformers layout (janus)"
    )


def _vae_folder(
    name: str | None, checkpoint: Checkpoint, revision: str | None, storage_options: Mapping[str, Any] | None
) -> Folder:
    if name is not None:
        return find_folder(name, revision=revision, storage_options=storage_options)
    inside = f"{checkpoint.name.rstrip('/')}/vae"
    try:
        folder = find_folder(inside, revision=checkpoint.revision, storage_options=storage_options)
        if "config.json" in folder.files():
            return folder
    except NoSuchFolder:
        pass
    raise CheckpointError(
        f"{checkpoint.name} has no vae folder inside, so model.vae must name an autoencoder, such as {_DEFAULT_VAE}"
    )


def _toy() -> Checkpoint:
    return Checkpoint(
        name="toy",
        revision=None,
        family="toy",
        layout=None,
        prompt_format=None,
        config={},
        files=(),
        weight_files=(),
        context_length=None,
    )
