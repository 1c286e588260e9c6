"""The public checkpoints of the Janus family: their role tags and protocols, and how a copy of one is recognized.

Tags and protocols are those of each model's public inference code, which `source` names. What identifies a model is its
hub id or a mark inside its files, never the name of its folder: renaming a folder changes no image.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from actors.checkpoint.files import SmallFiles, read_json
from actors.errors import CheckpointError
from actors.families import FAMILIES, Identity
from actors.prompt.template import PROMPT_FORMATS

_PUBLISHED_PRO = "4.33.1"  # the transformers_version in the config.json of Janus-Pro, which came as .bin files


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownModel:
    """One published checkpoint.

    * `repositories`: its hub ids. `prompt_format`: its role tags. `protocol`: the text that it writes before an image,
      see `actors.prompt.protocol`; None if it writes none.
    * `base`: the model that it was trained further from. `license`: as its page or repository states it.
    * `tokens`: tokens that only this model's tokenizer has.
    * `source`: the inference code that the tags and the protocol were read from.
    """

    name: str
    repositories: tuple[str, ...]
    prompt_format: str
    protocol: str | None = None
    base: str | None = None
    license: str
    tokens: tuple[str, ...] = ()
    source: str


_JANUS = "https://github.com/deepseek-ai/Janus"
_DEEPSEEK_LICENSE = "DeepSeek Model License"

JANUS_PRO = KnownModel(
    name="Janus-Pro",
    repositories=(
        "deepseek-ai/Janus-Pro-1B",
        "deepseek-ai/Janus-Pro-7B",
        "deepseek-community/Janus-Pro-1B",
        "deepseek-community/Janus-Pro-7B",
    ),
    prompt_format="janus-pro",
    license=_DEEPSEEK_LICENSE,
    source=f"{_JANUS}/blob/main/demo/app_januspro.py",
)

KNOWN_MODELS = (
    KnownModel(
        name="Janus-1.3B",
        repositories=("deepseek-ai/Janus-1.3B",),
        prompt_format="janus",
        license=_DEEPSEEK_LICENSE,
        source=f"{_JANUS}/blob/main/generation_inference.py",
    ),
    JANUS_PRO,
    KnownModel(
        name="JanusFlow-1.3B",
        repositories=("deepseek-ai/JanusFlow-1.3B",),
        prompt_format="janus",
        license=_DEEPSEEK_LICENSE,
        source=f"{_JANUS}/blob/main/demo/app_janusflow.py",
    ),
    KnownModel(
        name="T2I-R1",
        repositories=("CaraJ/T2I-R1",),
        prompt_format="janus",
        protocol="t2i-r1",
        base="deepseek-ai/Janus-Pro-7B",
        license="Apache-2.0",
        source="https://github.com/CaraJ7/T2I-R1/blob/main/src/t2i-r1/src/infer/reason_inference.py",
    ),
    KnownModel(
        name="GoT-R1",
        repositories=("gogoduan/GoT-R1-1B", "gogoduan/GoT-R1-7B"),
        prompt_format="janus",
        protocol="got-r1",
        base="Janus-Pro",
        license="MIT",
        tokens=("<|obj_start|>", "<|box_start|>"),
        source="https://github.com/gogoduan/GoT-R1/blob/main/infer.py",
    ),
    KnownModel(
        name="ReasonGen-R1",
        repositories=("Franklin0/ReasonGen-R1", "Franklin0/ReasonGen-R1-SFT"),
        prompt_format="janus-pro",
        protocol="reasongen-r1",
        base="deepseek-ai/Janus-Pro-7B",
        license="none in its GitHub repository; see its page",
        source="https://github.com/Franklin-Zhang0/ReasonGen-R1/blob/main/Janus/cot_generate_inference.py",
    ),
    KnownModel(
        name="Janus-4o",
        repositories=("FreedomIntelligence/Janus-4o-7B",),
        prompt_format="janus-pro",
        base="deepseek-ai/Janus-Pro-7B",
        license="none in its GitHub repository; see its page",
        source="https://github.com/FreedomIntelligence/ShareGPT-4o-Image/blob/main/README.md",
    ),
    KnownModel(
        name="Janus-Pro-R1",
        repositories=("midbee/Janus-Pro-R1-7B",),
        prompt_format="janus-pro",
        base="deepseek-ai/Janus-Pro-7B",
        license="Apache-2.0",
        source="https://github.com/wendell0218/Janus-Pro-R1/blob/main/inference/t2i.py",
    ),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """Where a checkpoint's role tags come from.

    * `prompt_format`: a key of PROMPT_FORMATS. `model`: the published model that it is, if it was recognized.
    * `evidence`: what shows it. None: the tags are a guess.
    * `hint`: what a person may want to know about a guess; empty if nothing is known.
    """

    prompt_format: str
    model: KnownModel | None = None
    evidence: str | None = None
    hint: str = ""


def find_origin(
    folder: SmallFiles,
    config: Mapping[str, Any],
    *,
    family: str,
    identity: Identity,
    hub_id: str | None,
    is_bundled: bool,
) -> Origin:
    """Recognize a published model by its hub id, then by marks in its files. Otherwise the tags are a guess.

    The tokenizer's settings are read only where nothing else identifies the model.
    """
    default = FAMILIES[family].default_prompt_format
    assert default is not None, "every family with checkpoints has one"
    if model := _model_of(hub_id):
        return Origin(prompt_format=model.prompt_format, model=model, evidence=f"the hub id {hub_id}")
    base = config.get("_name_or_path")
    parent = _model_of(base)
    if parent and parent is not JANUS_PRO:
        evidence = f"_name_or_path {base} in config.json"
        return Origin(prompt_format=parent.prompt_format, model=parent, evidence=evidence)
    if identity.prompt_format:
        return Origin(prompt_format=identity.prompt_format, evidence="its config.json")
    if is_bundled or default != JANUS_PRO.prompt_format:
        return Origin(
            prompt_format=default, evidence="the bundled checkpoint" if is_bundled else f"the family {family}"
        )
    if config.get("transformers_version") == _PUBLISHED_PRO and any(name.endswith(".bin") for name in folder.files()):
        return Origin(prompt_format=default, model=JANUS_PRO, evidence="its config.json and its .bin files")
    if found := _model_of_tokenizer(folder):
        model, token = found
        return Origin(prompt_format=model.prompt_format, model=model, evidence=f"the token {token} of its tokenizer")
    hint = f"it was trained further from {base}" if parent else _hint(folder.name)
    return Origin(prompt_format=default, hint=hint)


def _model_of(hub_id: object) -> KnownModel | None:
    return next((model for model in KNOWN_MODELS if hub_id in model.repositories), None)


def _model_of_tokenizer(folder: SmallFiles) -> tuple[KnownModel, str] | None:
    """The model whose own tokens tokenizer_config.json lists, and the first of them."""
    try:
        tokens = read_json(folder, "tokenizer_config.json").get("added_tokens_decoder")
    except CheckpointError:  # `doctor` reports it
        return None
    names = set(_contents(tokens))
    for model in KNOWN_MODELS:
        if model.tokens and names.issuperset(model.tokens):
            return model, model.tokens[0]
    return None


def _contents(added_tokens: object) -> Iterator[str]:
    if isinstance(added_tokens, dict):
        for token in added_tokens.values():
            if isinstance(token, dict) and isinstance(token.get("content"), str):
                yield token["content"]


def _hint(folder_name: str) -> str:
    """The published model that a folder's name speaks of, with its tags."""
    last = folder_name.rstrip("/").rsplit("/", 1)[-1].lower()
    for model in KNOWN_MODELS:
        names = {model.name.lower(), *(repository.rsplit("/", 1)[1].lower() for repository in model.repositories)}
        if last in names:
            roles = PROMPT_FORMATS[model.prompt_format].roles
            return f"its folder has the name of {model.name}, whose tags are {roles}"
    return ""
