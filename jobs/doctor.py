"""`janus-batch doctor`: examine a checkpoint, from its files to its image decoder and its speed on this machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import click

from actors.checkpoint.doctor import (
    PROBE_PROMPT,
    Finding,
    check_guidance,
    check_image_decoder,
    check_speed,
    check_tags,
    check_tokenizer,
    check_weights,
    probe_request,
)
from actors.checkpoint.folder import BUNDLED
from actors.checkpoint.models import with_adapters
from actors.checkpoint.open import Checkpoint, fetch_checkpoint, open_vae
from actors.engines import load_engine
from actors.errors import CheckpointError, shown
from actors.families import FAMILIES
from actors.prompt.protocol import PROTOCOLS
from actors.recipe import sampling_settings
from jobs.job_file.read import check_fields
from jobs.job_file.resolve import (
    Models,
    adapters_of,
    check_family_settings,
    open_model_of,
    recipe_of,
)
from jobs.job_file.spec import JobSpec
from jobs.terminal.printer import Printer, printing
from jobs.terminal.text import counted

# Of Janus-1.3B, Janus-Pro and JanusFlow.
PUBLISHED_WIDTHS, PUBLISHED_HEAD_DIM = (2048, 4096), 128


def doctor(
    name: str,
    *,
    revision: str | None,
    vae: str | None,
    prompt_format: str | None,
    endpoint_url: str | None,
    settings: Sequence[str] = (),
    as_json: bool = False,
    is_quiet: bool = False,
) -> int:
    """Print the checks as a table while they are made, or as one JSON object; 1 if one of them found a fault.

    `settings` change the keys of the job file that would render with this model. Raises JobFileError.
    """
    findings: list[Finding] = []
    with printing(as_json=as_json, is_quiet=is_quiet) as printer:
        model = {"checkpoint": name.strip(), "revision": revision, "vae": vae, "prompt_format": prompt_format}
        storage = {"endpoint_url": endpoint_url} if endpoint_url else {}
        fields = {"prompts": "prompts.parquet", "output": "output", "model": model, "storage": storage}
        spec = check_fields(fields, settings)
        adapters_of(spec.model)  # refuses a sweep before anything is opened
        for finding in _all_findings(spec, printer):
            findings.append(finding)
            _print(finding, printer)
        num_faults = sum(not finding.is_ok for finding in findings)
        printer.line("no fault found" if not num_faults else f"{counted(num_faults, 'fault')} found")
        printer.result(_as_json(name, findings))
    return 1 if num_faults else 0


def _all_findings(spec: JobSpec, printer: Printer) -> Iterator[Finding]:
    """The findings, the last of them a fault if the checkpoint cannot be opened or loaded."""
    try:
        yield from _findings(spec, printer)
    except CheckpointError as error:
        yield Finding(check="loading", is_ok=False, detail=str(error))


def _findings(spec: JobSpec, printer: Printer) -> Iterator[Finding]:
    """The cheapest checks first."""
    checkpoint = open_model_of(spec)
    family = FAMILIES[checkpoint.family]
    check_family_settings(spec, checkpoint.family)
    if checkpoint.folder is None:
        with_adapters(checkpoint, adapters_of(spec.model))  # refuses them
        yield Finding(check="family", detail=f"{checkpoint.family}: it has no checkpoint to examine")
        return
    yield from _look_at(checkpoint)
    checkpoint = with_adapters(checkpoint, adapters_of(spec.model), storage_options=spec.storage)
    if checkpoint.adapters:
        yield _adapters(checkpoint)
    with printer.step("reading the checkpoint"):
        checkpoint = fetch_checkpoint(checkpoint)
    yield from check_tokenizer(checkpoint)
    yield from check_weights(checkpoint)
    vae = None
    if family.decodes_with_vae:
        model = spec.model
        opened = open_vae(model.vae, checkpoint, revision=model.vae_revision, storage_options=spec.storage)
        vae = fetch_checkpoint(opened)
        yield Finding(check="vae", detail=vae.name, facts={"vae": vae.name})
    of_engine: list[Finding] = []
    for finding in _check_engine(spec, (checkpoint, vae), printer):
        of_engine.append(finding)
        yield finding
    is_faulty = any(not finding.is_ok for finding in of_engine)
    for finding in _check_values(checkpoint, vae, printer):
        # The tensor that explains a fault above is not another fault.
        yield replace(finding, is_ok=True, is_note=True) if is_faulty and not finding.is_ok else finding


def _check_values(checkpoint: Checkpoint, vae: Checkpoint | None, printer: Printer) -> list[Finding]:
    from actors.checkpoint.values import check_values  # loads torch

    with printer.step("reading every number"):
        of_vae = check_values(vae) if vae else ()
        return [*check_values(checkpoint), *(replace(finding, check="numbers of the vae") for finding in of_vae)]


def _check_engine(spec: JobSpec, models: Models, printer: Printer) -> Iterator[Finding]:
    """The checks that need the loaded model, as a job here would load it: in float32 on a CPU, in bfloat16 on a GPU."""
    from actors.device import find_device  # loads torch

    default_dtype = "bfloat16" if find_device()[0].type == "cuda" else "float32"
    recipe = recipe_of(spec, models, default_dtype=default_dtype, with_digest=False)
    with printer.step("loading the weights"):
        engine = load_engine(recipe, *filter(None, models))
    yield Finding(check="weights", detail="every tensor that generation needs is there, in the shape of config.json")
    with printer.step("checking the guidance"):
        found = [*check_guidance(engine)]
        if all(finding.is_ok for finding in found):
            found += check_tags(engine, models[0])
    yield from found
    with printer.step("checking the image decoder"):
        found = [*check_image_decoder(engine)]
    yield from found
    request = probe_request(PROBE_PROMPT, settings={"cfg_weight": recipe.cfg_weights[0], **sampling_settings(recipe)})
    with printer.step("measuring the throughput"):
        found = [*check_speed(engine, request, PROTOCOLS.get(recipe.protocol or ""))]
    yield from found


def _print(finding: Finding, printer: Printer) -> None:
    label, color = {"ok": ("ok   ", "green"), "note": ("note ", "yellow"), "fault": ("FAULT", "red")}[finding.verdict]
    printer.line(f"{click.style(label, fg=color)}  {finding.check:<22} {finding.detail}")


def _as_json(name: str, findings: list[Finding]) -> dict[str, Any]:
    facts = {key: value for finding in findings for key, value in finding.facts.items()}
    checks = [{"check": one.check, "verdict": one.verdict, "detail": one.detail} for one in findings]
    num_faults = sum(not finding.is_ok for finding in findings)
    return {"checkpoint": name, "num_faults": num_faults, **facts, "checks": checks}


def _look_at(checkpoint: Checkpoint) -> Iterator[Finding]:
    commit = f" @ {checkpoint.revision}" if checkpoint.revision else ""
    facts = {"family": checkpoint.family, "layout": checkpoint.layout, "revision": checkpoint.revision}
    yield Finding(check="family", detail=f"{checkpoint.family}, {checkpoint.layout} layout{commit}", facts=facts)
    yield _known_model(checkpoint)
    if hasattr(checkpoint.shape, "llama"):  # a family of one's own may have another text model
        yield _shape(checkpoint)
    num_bytes = sum(file.size for file in checkpoint.files)
    names = ", ".join(checkpoint.weight_files)
    detail = f"{len(checkpoint.files)} files, {num_bytes:,} bytes; {names}"
    yield Finding(check="files", detail=detail, facts={"num_bytes": num_bytes, "weight_files": checkpoint.weight_files})
    if checkpoint.note:
        yield Finding(check="weight files", detail=checkpoint.note, is_note=True)


def _known_model(checkpoint: Checkpoint) -> Finding:
    """Which published model this is, what it writes before an image, and its license."""
    model = checkpoint.origin.model if checkpoint.origin else None
    if model is None:
        is_bundled = checkpoint.name in BUNDLED
        detail = "bundled with janus-batch" if is_bundled else "none of the published ones that are known here"
        return Finding(check="model", detail=detail, facts={"model": checkpoint.name if is_bundled else None})
    base = f", trained from {model.base}" if model.base else ""
    writes = f"; it writes a text before each image (model.protocol: {model.protocol})" if model.protocol else ""
    facts = {"model": model.name, "protocol": model.protocol, "license": model.license, "source": model.source}
    return Finding(check="model", detail=f"{model.name}{base}; license: {model.license}{writes}", facts=facts)


def _shape(checkpoint: Checkpoint) -> Finding:
    """The sizes in config.json. Its number of heads is the one that no tensor's shape proves."""
    llama = checkpoint.shape.llama
    detail = (
        f"{llama.num_layers} layers of {llama.hidden_size} channels, {llama.num_heads} heads of {llama.head_dim}, "
        f"{llama.context_length} positions; images of {checkpoint.image_size} pixels per side"
    )
    is_odd = llama.hidden_size in PUBLISHED_WIDTHS and llama.head_dim != PUBLISHED_HEAD_DIM
    if is_odd:
        detail += f"; published models of this width have heads of {PUBLISHED_HEAD_DIM}: check num_attention_heads"
    facts = {
        "num_layers": llama.num_layers,
        "hidden_size": llama.hidden_size,
        "num_heads": llama.num_heads,
        "context_length": llama.context_length,
        "image_size": checkpoint.image_size,
    }
    return Finding(check="shape", detail=detail, is_note=is_odd, facts=facts)


def _adapters(checkpoint: Checkpoint) -> Finding:
    """The adapters that are merged into the weights, and what each was trained on."""
    facts = [
        {"name": adapter.name, "weight": weight, "base": adapter.config.get("base_model_name_or_path")}
        for adapter, weight in checkpoint.adapters
    ]
    detail = "; ".join(
        f"{one['name']}, weight {one['weight']:g}" + (f", trained on {shown(one['base'])}" if one["base"] else "")
        for one in facts
    )
    return Finding(check="adapters", detail=detail, facts={"adapters": facts})
