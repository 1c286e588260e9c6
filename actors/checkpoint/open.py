"""Opens a checkpoint without reading weights: family, layout, shape, files, digest. No torch.

A checkpoint is opened once per process: its record carries its folder, its parsed config.json and its shape.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from actors.checkpoint.files import (
    TEXT_MODEL_STEMS,
    VAE_STEMS,
    StoredFile,
    check_readable,
    find_weight_files,
    read_json,
)
from actors.checkpoint.find import find_folder
from actors.checkpoint.folder import BUNDLED, Folder, LocalFolder
from actors.checkpoint.kinds import refuse_language_model, refuse_other_kinds, refuse_quantized
from actors.checkpoint.known import Origin, find_origin
from actors.checkpoint.name import hub_id_in, read_model_name
from actors.checkpoint.tokenizer_file import check_tokenizer_file
from actors.errors import CheckpointError, NoSuchFolder, OtherWeightsError, shown
from actors.families import FAMILIES, Identity, Shape
from actors.prompt.template import PROMPT_FORMATS, PromptTemplate


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """An opened checkpoint.

    `name` is the name in the job file and `revision` the commit it resolved to (None unless it is a hub id). `family`
    is a key of FAMILIES, or `vae`; `layout` is original, transformers or diffusers. `files` are all files that a render
    reads, `weight_files` the sorted names of those with weights. `shape` is None for a VAE. A family without
    checkpoints (toy) has its name and `family` and nothing else.

    `adapters` are merged into the weights while they are read: each with the factor of what it adds.

    `prompt_template` is the one that the job gives; else the template is that of `prompt_format`. `origin` says which
    published model this is, and where the template comes from. `note` says which weight files of the folder were
    passed over.
    """

    name: str
    revision: str | None = None
    family: str
    layout: str | None = None
    prompt_format: str | None = None
    prompt_template: PromptTemplate | None = None
    origin: Origin | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    shape: Any = None
    files: tuple[StoredFile, ...] = ()
    weight_files: tuple[str, ...] = ()
    folder: Folder | None = field(default=None, compare=False)
    adapters: tuple[tuple[Checkpoint, float], ...] = ()
    note: str | None = None

    @property
    def path(self) -> Path:
        """Where the folder is on this machine's disk, see `fetch_checkpoint`."""
        assert isinstance(self.folder, LocalFolder), f"{self.name} is not fetched"
        return self.folder.path

    @property
    def template(self) -> PromptTemplate:
        """The text around a prompt. Not for a VAE, or a family without checkpoints."""
        return self.prompt_template or PROMPT_FORMATS[self.prompt_format or ""]

    @property
    def image_size(self) -> int:
        """Pixels per side of the images it renders."""
        size: int | None = FAMILIES[self.family].image_size if self.shape is None else self.shape.image_size
        assert size is not None, f"the family {self.family} has neither a shape nor an image size"
        return size


def open_checkpoint(
    name: str,
    *,
    revision: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
    prompt_format: str | None = None,
    prompt_template: PromptTemplate | None = None,
) -> Checkpoint:
    """Find and identify a checkpoint from its config.json and its listing alone.

    `name` is the name of a family without checkpoints (`toy`), a bundled name, a local folder, a URL that fsspec opens
    with `storage_options`, or a hub id, whose `revision` is pinned to a commit; `read_model_name` knows more spellings.
    The content of config.json decides the family, the layout and the shape.

    `prompt_format` is the pair of role tags that the model was trained with; the wrong pair gives worse images and no
    error. `prompt_template` takes its place with the whole text around a prompt. The default is what
    `actors.checkpoint.known` recognizes, else the family's own default.

    Raises CheckpointError for anything that cannot be rendered with: no such folder, no model in it, a model of another
    kind, missing files, a setting that the engines do not implement.
    """
    if prompt_format not in (None, *PROMPT_FORMATS):
        raise CheckpointError(f"prompt_format must be one of {', '.join(PROMPT_FORMATS)}, got {prompt_format!r}")
    model = read_model_name(name, revision)
    name = model.name
    if is_family_without_checkpoint(name):
        return Checkpoint(name=name, family=name)
    folder = find_folder(name, revision=model.revision, storage_options=storage_options)
    refuse_other_kinds(folder)
    config = read_json(folder, "config.json")
    refuse_quantized(folder, config)
    refuse_language_model(folder, config)
    hub_id = folder.name if folder.revision else None
    family, identity = _identify(name, config, hub_id=hub_id)
    weights = find_weight_files(folder, TEXT_MODEL_STEMS)
    origin = find_origin(
        folder,
        config,
        family=family,
        identity=identity,
        hub_id=hub_id or hub_id_in(name),
        is_bundled=name in BUNDLED,
    )
    are_tags_given = prompt_format is not None or prompt_template is not None
    return Checkpoint(
        name=name,
        revision=folder.revision,
        family=family,
        layout=identity.layout,
        prompt_format=prompt_format if are_tags_given else origin.prompt_format,
        prompt_template=prompt_template,
        origin=dataclasses.replace(origin, evidence="the job", hint="") if are_tags_given else origin,
        config=config,
        shape=read_shape(family, config),
        files=_stored(
            folder, ["config.json", "tokenizer.json", weights.index, *weights.names, *_settings_files(folder)]
        ),
        weight_files=weights.names,
        folder=folder,
        note=weights.note,
    )


def open_vae(
    name: str | None,
    checkpoint: Checkpoint,
    *,
    revision: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> Checkpoint:
    """Find the autoencoder that turns a checkpoint's latents into pixels.

    `name` is written like a checkpoint's; None means the folder `vae` inside the checkpoint. Raises CheckpointError
    where there is no autoencoder, or where it does not decode the latents that the checkpoint makes.
    """
    family = FAMILIES[checkpoint.family]
    if not family.decodes_with_vae:
        raise CheckpointError(f"{checkpoint.name} ({checkpoint.family}) decodes without a VAE; got model.vae {name!r}")
    inside = f"{checkpoint.name.rstrip('/')}/vae"
    if name is not None:
        model = read_model_name(name, revision)
        name, revision = model.name, model.revision
    if name is None or (name, revision or checkpoint.revision) == (inside, checkpoint.revision):
        folder = _folder_inside(checkpoint)
    else:
        folder = find_folder(name, revision=revision, storage_options=storage_options)
    config = read_json(folder, "config.json")
    family.load_config().check_vae(config, folder.name, checkpoint.shape)
    weights = find_weight_files(folder, VAE_STEMS)
    return Checkpoint(
        name=folder.name,
        revision=folder.revision,
        family="vae",
        layout="diffusers",
        config=config,
        files=_stored(folder, ["config.json", weights.index, *weights.names]),
        weight_files=weights.names,
        folder=folder,
        note=weights.note,
    )


def weights_digest(checkpoint: Checkpoint) -> str:
    """One SHA-256 for all weight files, as hex: what `sha256sum FILES | sha256sum` prints in the model's folder.

    That is the hash of one line `<hash of the file>  <name>` per file, sorted by name. The hub lists the files' hashes;
    a local file is hashed once per process, a file at a URL once per machine.
    """
    lines = []
    known = {file.name: file.sha256 for file in checkpoint.files}
    for name in sorted(checkpoint.weight_files):
        assert checkpoint.folder is not None
        lines.append(f"{known[name] or checkpoint.folder.sha256(name)}  {name}\n")
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def check_digest(checkpoint: Checkpoint, expected: str | None, *, since: str = "the job was begun") -> None:
    """Raise OtherWeightsError unless the weights have this digest. `since` says when they had it."""
    digest = weights_digest(checkpoint)
    if digest != expected:
        raise OtherWeightsError(
            f"{checkpoint.name} holds other weights now: their SHA-256 is {digest}, {since} with {expected}"
        )


def fetch_checkpoint(checkpoint: Checkpoint) -> Checkpoint:
    """The same checkpoint with every file that a render reads on this machine's disk, downloaded if necessary.

    Checks its tokenizer.json (see `actors.checkpoint.tokenizer_file`). The digest is that of the local files. Raises
    CheckpointError; for the kind CheckpointUnreachable a retry may help.
    """
    assert checkpoint.folder is not None
    path = checkpoint.folder.fetch([file.name for file in checkpoint.files])
    folder = LocalFolder(path, checkpoint.folder.name, checkpoint.revision)
    files = tuple(dataclasses.replace(file, sha256=None) for file in checkpoint.files)
    if any(file.name == "tokenizer.json" for file in files):
        check_tokenizer_file(folder)
    adapters = tuple((fetch_checkpoint(adapter), weight) for adapter, weight in checkpoint.adapters)
    return dataclasses.replace(checkpoint, folder=folder, files=files, adapters=adapters)


def read_shape(family: str, config: Mapping[str, Any]) -> Shape:
    """The shape of a config.json of this family. Raises CheckpointError."""
    return FAMILIES[family].load_config().read_shape(config)


def is_family_without_checkpoint(name: str) -> bool:
    return name in FAMILIES and FAMILIES[name].config is None


def _identify(name: str, config: Mapping[str, Any], *, hub_id: str | None) -> tuple[str, Identity]:
    families = {key: family for key, family in FAMILIES.items() if family.config is not None}
    for key, family in families.items():
        if identity := family.load_config().identify(config, hub_id):
            return key, identity
    kind = config.get("model_type") or config.get("_class_name")
    allowed = "; ".join(family.checkpoints for family in families.values())
    raise CheckpointError(f"{name} is a model of type {shown(kind)}, not one of those that can be rendered: {allowed}")


def _settings_files(folder: Folder) -> list[str]:
    """Files that no render needs: two for `actors.checkpoint.doctor`, one for `actors.understanding`."""
    names = ("tokenizer_config.json", "special_tokens_map.json", "preprocessor_config.json")
    return [name for name in names if name in folder.files()]


def _stored(folder: Folder, names: list[str | None]) -> tuple[StoredFile, ...]:
    files = folder.files()
    missing = [name for name in names if name and name not in files]
    if missing:
        remedy = "; copy it from the model that it was trained from" if missing == ["tokenizer.json"] else ""
        raise CheckpointError(f"{folder.name} is incomplete: it holds no {', '.join(missing)}{remedy}")
    for name in filter(None, names):
        check_readable(folder, name)
    return tuple(files[name] for name in names if name)


def _folder_inside(checkpoint: Checkpoint) -> Folder:
    assert checkpoint.folder is not None
    folder = checkpoint.folder.subfolder("vae")
    try:
        if "config.json" in folder.files():
            return folder
    except NoSuchFolder:
        pass
    raise CheckpointError(
        f"{checkpoint.name} has no vae folder inside, so model.vae must name an autoencoder, such as "
        f"{FAMILIES[checkpoint.family].suggested_vae}"
    )
