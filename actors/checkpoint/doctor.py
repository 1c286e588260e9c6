"""Checks of a checkpoint's tokenizer, guidance and image decoder. They change nothing.

A published checkpoint once had a tokenizer configuration with a wrong pad id. Its unconditional prompt was no longer
unconditional, nothing failed, and guidance silently had no effect. These checks find such a checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from actors.checkpoint.files import read_json
from actors.checkpoint.folder import Folder, LocalFolder
from actors.checkpoint.open import Checkpoint
from actors.errors import CheckpointError, one_line, shown
from actors.prompt.tokenizer import BEGIN_OF_IMAGE, BOS, PAD, PromptTokenizer

PROBE_PROMPT = "a photo of a red apple on a wooden table"

# Below this share of the prediction's own spread, the effect of guidance is invisible.
MIN_GUIDANCE_EFFECT = 1e-3


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One check: its name, whether it passed, and what was found."""

    check: str
    is_ok: bool
    detail: str


def check_tokenizer(checkpoint: Checkpoint) -> Iterator[Finding]:
    """The special tokens of a fetched checkpoint's prompts, and whether all files about the tokenizer agree on them."""
    template = checkpoint.template
    tokenizer = PromptTokenizer(checkpoint.path, template)
    names_of = tokenizer.names_by_id()
    for name, token_id in (
        (BOS, tokenizer.bos_id),
        (PAD, tokenizer.pad_id),
        (BEGIN_OF_IMAGE, tokenizer.begin_of_image_id),
    ):
        others = sorted(names_of[token_id] - {name})
        detail = f"id {token_id}" + (f", which is also the id of {', '.join(map(repr, others))}" if others else "")
        yield Finding(check=f"token {name}", is_ok=not others, detail=detail)
    yield Finding(check="role tags", is_ok=True, detail=f"{template.roles}, {_source_of_tags(checkpoint)}")
    yield _check_pad_settings(LocalFolder(checkpoint.path, checkpoint.name), tokenizer.pad_id)
    yield _check_unconditional_prompt(tokenizer)


def check_guidance(engine: Any) -> Iterator[Finding]:
    """Whether the engine's two predictions for a probe prompt are finite, and how much they differ."""
    cond, uncond = (prediction.float() for prediction in engine.predict(PROBE_PROMPT))
    is_finite = bool(cond.isfinite().all() and uncond.isfinite().all())
    detail = "none in the first prediction" if is_finite else "the first prediction has NaN or infinite numbers"
    yield Finding(check="NaN", is_ok=is_finite, detail=detail)
    effect = float((cond - uncond).std() / cond.std().clamp_min(1e-30)) if is_finite else 0.0
    yield Finding(
        check="guidance",
        is_ok=effect >= MIN_GUIDANCE_EFFECT,
        detail=f"the prompt moves the first prediction by {effect:.1%} of its spread"
        + (
            ""
            if effect >= MIN_GUIDANCE_EFFECT
            else ": the model does not distinguish the conditional from the unconditional prompt"
        ),
    )


def check_image_decoder(engine: Any) -> Iterator[Finding]:
    """Whether the engine decodes one image to finite numbers. NaN would become black pixels, not an error."""
    is_finite = engine.is_decoder_finite()
    detail = "one image, all numbers finite" if is_finite else "the numbers of an image become NaN or infinite"
    yield Finding(check="image decoder", is_ok=is_finite, detail=detail)


def _source_of_tags(checkpoint: Checkpoint) -> str:
    """What the role tags of a checkpoint were read from, or that they are a guess."""
    origin = checkpoint.origin
    assert origin is not None, "every checkpoint with a template has one"
    if origin.evidence:
        return f"by {origin.evidence}"
    return "a guess: those of Janus-Pro" + (f"; {origin.hint}" if origin.hint else "")


def _check_pad_settings(folder: Folder, pad_id: int) -> Finding:
    """tokenizer_config.json and special_tokens_map.json must not name another token as the pad.

    This program takes the pad's id from the vocabulary, but other programs take it from these files. A checkpoint whose
    files disagree is damaged.
    """
    faults, seen = [], []
    for file_name in ("tokenizer_config.json", "special_tokens_map.json"):
        if file_name not in folder.files():
            continue
        try:
            fields = read_json(folder, file_name)
        except CheckpointError as error:
            faults.append(str(error))
            continue
        pad = fields.get("pad_token")
        pad = pad.get("content") if isinstance(pad, dict) else pad
        seen.append(f"{file_name}: {shown(pad)}")
        faults += [f"{file_name} {fault}" for fault in _pad_faults(fields, pad, pad_id)]
    return Finding(check="pad settings", is_ok=not faults, detail="; ".join(faults or seen or ["no such file"]))


def _pad_faults(fields: Mapping[str, Any], pad: object, pad_id: int) -> Iterator[str]:
    """What the fields of one settings file say of the pad that the vocabulary does not."""
    if pad not in (None, PAD):
        yield f"calls {shown(pad)} the pad token, it must be {PAD!r} or null"
    if fields.get("pad_token_id", pad_id) not in (None, pad_id):
        yield f"gives pad_token_id {shown(fields['pad_token_id'])}, the vocabulary says {pad_id}"
    tokens = fields.get("added_tokens_decoder") or {}
    if not isinstance(tokens, dict):
        yield f"must hold an object added_tokens_decoder, got {shown(tokens)}"
        return
    for token_id, token in tokens.items():
        name = token.get("content") if isinstance(token, dict) else None
        if not isinstance(name, str) or not token_id.isdecimal():
            yield (
                "must give each id in added_tokens_decoder an object with the token's content, "
                f"got {shown(token_id)}: {shown(token)}"
            )
            return
        if (name == PAD) != (token_id == str(pad_id)):
            yield f"gives id {one_line(token_id)} to {shown(name)}, the vocabulary says {pad_id} is {PAD!r}"


def _check_unconditional_prompt(tokenizer: PromptTokenizer) -> Finding:
    try:
        cond = tokenizer.cond_ids(PROBE_PROMPT)
    except ValueError as error:
        return Finding(check="unconditional prompt", is_ok=False, detail=str(error))
    if tokenizer.template.unconditional == "empty":
        detail = "the template around an empty prompt"
        return Finding(check="unconditional prompt", is_ok=tokenizer.cond_ids("") != cond, detail=detail)
    uncond = tokenizer.uncond_ids(len(cond))
    num_same = sum(a == b for a, b in zip(cond, uncond, strict=True))
    is_ok = num_same == 2  # the first and the last id: bos and begin-of-image
    detail = f"{len(cond)} ids, {len(cond) - num_same} of them differ from the prompt's"
    return Finding(check="unconditional prompt", is_ok=is_ok, detail=detail)
