"""Checks of a checkpoint's tokenizer, guidance and image decoder. They change nothing.

A published checkpoint once had a tokenizer configuration with a wrong pad id. Its unconditional prompt was no longer
unconditional, nothing failed, and guidance silently had no effect. These checks find such a checkpoint.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from actors.checkpoint.files import read_json
from actors.checkpoint.folder import Folder, LocalFolder
from actors.checkpoint.open import Checkpoint
from actors.errors import CheckpointError, one_line, shown
from actors.llama.config import is_head_tied
from actors.prompt.protocol import Protocol
from actors.prompt.template import PROMPT_FORMATS
from actors.prompt.tokenizer import BEGIN_OF_IMAGE, BOS, PAD, PromptTokenizer
from actors.request import ImageRequest

# Parts that not every job needs: the modules that hold their tensors, in any layout, and what they are for.
OPTIONAL_PARTS = (
    ("text head", {"lm_head"}, "texts before an image (model.protocol), captions and judging"),
    ("vision tower", {"vision_model", "vision_und_enc_model"}, "captions and judging"),
)

Use = Literal["rendering", "looking"]  # what a tensor is for

PROBE_PROMPT = "a photo of a red apple on a wooden table"
PROBE_PROMPTS = (PROBE_PROMPT, "two blue squares", "a red circle above a green square", "a dog left of a bicycle")

MIN_GUIDANCE_EFFECT = 1e-3  # in shares of the prediction's own spread; below it, guidance is invisible
MIN_DIFFERENCE = 0.05  # between two templates, in shares of the larger value; below it, neither is recommended


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One check: its name, whether it passed, and what was found.

    `is_note`: no fault, but something to know. `facts`: what was found, for programs.
    """

    check: str
    is_ok: bool = True
    detail: str
    is_note: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def verdict(self) -> Literal["ok", "note", "fault"]:
        if not self.is_ok:
            return "fault"
        return "note" if self.is_note else "ok"


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
    yield _role_tags(checkpoint)
    yield _check_pad_settings(LocalFolder(checkpoint.path, checkpoint.name), tokenizer.pad_id)
    yield _check_unconditional_prompt(tokenizer)


def check_weights(checkpoint: Checkpoint) -> Iterator[Finding]:
    """The dtypes that the weights are stored in, and the parts that only some jobs need. For a fetched checkpoint."""
    from actors.checkpoint.weights import stored_dtypes  # loads torch

    dtype_of = stored_dtypes(checkpoint)
    counts = Counter(dtype_of.values()).most_common()
    detail = ", ".join(f"{num} tensors in {dtype}" for dtype, num in counts)
    yield Finding(check="dtype", detail=detail, facts={"stored_dtypes": dict(counts)})
    modules = {module for name in dtype_of for module in name.split(".")[:-1]}
    for part, names, use in OPTIONAL_PARTS:
        is_there = bool(names & modules)
        detail = f"there, for {use}" if is_there else f"missing: no {use}"
        if part == "text head" and not is_there and is_head_tied(checkpoint.config, checkpoint.layout):
            is_there, detail = True, f"the table of input embeddings, for {use}"
        facts = {f"has_{part.replace(' ', '_')}": is_there}
        yield Finding(check=part, detail=detail, is_note=not is_there, facts=facts)


def check_tags(engine: Any, checkpoint: Checkpoint) -> Iterator[Finding]:
    """Which pair of role tags the model answers better: with sharper distributions and more effect of guidance.

    Only for models that the published ones are trained further into, and only while their tags are a guess.
    """
    origin = checkpoint.origin
    if origin is None or origin.evidence or not hasattr(engine, "probe_template"):
        return
    requests = [probe_request(prompt, seed) for seed, prompt in enumerate(PROBE_PROMPTS)]
    probes = {}
    for name, template in PROMPT_FORMATS.items():
        try:
            probes[name] = engine.probe_template(template, requests)
        except CheckpointError as error:
            yield Finding(check=f"tags {name}", detail=str(error), is_note=True)
            continue
        detail = (
            f"{template.roles}: {probes[name].entropy:.3f} bits a code, of which the prompt decides "
            f"{probes[name].guidance_effect:.3f}"
        )
        facts = {f"entropy_{name}": probes[name].entropy, f"guidance_effect_{name}": probes[name].guidance_effect}
        yield Finding(check=f"tags {name}", detail=detail, facts=facts)
    if len(probes) == len(PROMPT_FORMATS):
        yield _recommend_tags(probes)


def _recommend_tags(probes: Mapping[str, Any]) -> Finding:
    """The tags under which the model is more certain and follows the prompt more, as shares of the larger value."""
    most_unsure = max(probe.entropy for probe in probes.values())
    strongest = max(probe.guidance_effect for probe in probes.values())
    score = {name: probe.guidance_effect / strongest - probe.entropy / most_unsure for name, probe in probes.items()}
    best = max(score, key=lambda name: score[name])
    if score[best] - min(score.values()) < MIN_DIFFERENCE:
        detail = "no clear difference; compare images of both on a few prompts, or ask who trained the model"
        return Finding(check="recommended tags", detail=detail, is_note=True, facts={"recommended_prompt_format": None})
    detail = f"model.prompt_format: {best}, under which the model is more certain or follows the prompt more"
    return Finding(check="recommended tags", detail=detail, is_note=True, facts={"recommended_prompt_format": best})


def check_speed(engine: Any, request: ImageRequest, protocol: Protocol | None = None) -> Iterator[Finding]:
    """How fast the engine is on this machine, estimated from the first steps of one batch.

    `protocol` is that of the engine, if it writes a text before each image.
    """
    if not hasattr(engine, "seconds_per_batch"):
        return
    batch = engine.default_batch_size
    seconds = engine.seconds_per_batch(request)
    throughput = batch / seconds
    detail = f"about {throughput:.3g} images/s on {engine.device}; a batch of {batch} takes {seconds:.3g} s"
    if protocol:
        detail += f", with texts of {protocol.max_tokens} tokens, the longest"
    facts = {"images_per_second": throughput, "batch_size": batch, "device": engine.device}
    yield Finding(check="throughput", detail=detail, facts=facts)


def probe_request(prompt: str, seed: int = 0, settings: Mapping[str, Any] | None = None) -> ImageRequest:
    """A request for a look at a model."""
    fields = {"cfg_weight": 5.0, "temperature": 1.0, **(settings or {})}
    return ImageRequest(image_id=str(seed), prompt_id="probe", image_index=seed, prompt=prompt, seed=seed, **fields)


def check_guidance(engine: Any) -> Iterator[Finding]:
    """Whether the engine's two predictions for a probe prompt are finite, and how much they differ."""
    cond, uncond = (prediction.float() for prediction in engine.predict(PROBE_PROMPT))
    is_finite = bool(cond.isfinite().all() and uncond.isfinite().all())
    detail = "none in the first prediction" if is_finite else "the first prediction has NaN or infinite numbers"
    yield Finding(check="NaN", is_ok=is_finite, detail=detail)
    if not is_finite:
        yield Finding(check="guidance", is_ok=False, detail="not measured", facts={"is_guidance_alive": False})
        return
    effect = float((cond - uncond).std() / cond.std().clamp_min(1e-30))
    is_alive = effect >= MIN_GUIDANCE_EFFECT
    detail = f"the prompt moves the first prediction by {effect:.1%} of its spread"
    if not is_alive:
        detail += ": the model does not distinguish the conditional from the unconditional prompt"
    facts = {"is_guidance_alive": is_alive, "guidance_effect": effect}
    yield Finding(check="guidance", is_ok=is_alive, detail=detail, facts=facts)


def check_image_decoder(engine: Any) -> Iterator[Finding]:
    """Whether the engine decodes one image to finite numbers. NaN would become black pixels, not an error."""
    is_finite = engine.is_decoder_finite()
    detail = "one image, all numbers finite" if is_finite else "the numbers of an image become NaN or infinite"
    yield Finding(check="image decoder", is_ok=is_finite, detail=detail)


def _role_tags(checkpoint: Checkpoint) -> Finding:
    """The role tags of a checkpoint, and what they were read from or that they are a guess."""
    origin, roles = checkpoint.origin, checkpoint.template.roles
    assert origin is not None, "every checkpoint with a template has one"
    source = f"by {origin.evidence}" if origin.evidence else "a guess: those of Janus-Pro"
    hint = f"; {origin.hint}" if origin.hint else ""
    facts = {"prompt_format": checkpoint.prompt_format, "are_tags_known": origin.evidence is not None}
    return Finding(check="role tags", detail=f"{roles}, {source}{hint}", is_note=origin.evidence is None, facts=facts)


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
