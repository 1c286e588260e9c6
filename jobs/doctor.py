"""`janus-batch doctor`: examine a checkpoint, from its files to its image decoder and its speed on this machine."""

from __future__ import annotations

from collections.abc import Iterator
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
from actors.checkpoint.open import Checkpoint, fetch_checkpoint, open_checkpoint, open_vae
from actors.engines import Engine, load_engine
from actors.errors import CheckpointError
from actors.families import FAMILIES
from actors.recipe import Recipe
from jobs.job_file.resolve import absolute_model_name
from jobs.terminal.printer import Printer, printing
from jobs.terminal.text import counted


def doctor(
    name: str,
    *,
    revision: str | None,
    vae: str | None,
    prompt_format: str | None,
    endpoint_url: str | None,
    as_json: bool = False,
    is_quiet: bool = False,
) -> int:
    """Print the checks as a table while they are made, or as one JSON object; 1 if one of them found a fault."""
    storage = {"endpoint_url": endpoint_url} if endpoint_url else {}
    findings: list[Finding] = []
    with printing(as_json=as_json, is_quiet=is_quiet) as printer:
        for finding in _all_findings(absolute_model_name(name), revision, vae, prompt_format, storage, printer):
            findings.append(finding)
            _print(finding, printer)
        num_faults = sum(not finding.is_ok for finding in findings)
        printer.line("no fault found" if not num_faults else f"{counted(num_faults, 'fault')} found")
        printer.result(_as_json(name, findings))
    return 1 if num_faults else 0


def _all_findings(*what: Any) -> Iterator[Finding]:
    """The findings, the last of them a fault if the checkpoint cannot be opened or loaded."""
    try:
        yield from _findings(*what)
    except CheckpointError as error:
        yield Finding(check="loading", is_ok=False, detail=str(error))


def _findings(
    name: str,
    revision: str | None,
    vae: str | None,
    prompt_format: str | None,
    storage: dict[str, Any],
    printer: Printer,
) -> Iterator[Finding]:
    """The cheapest checks first."""
    checkpoint = open_checkpoint(name, revision=revision, storage_options=storage, prompt_format=prompt_format)
    if checkpoint.folder is None:
        yield Finding(check="family", detail=f"{checkpoint.family}: it has no checkpoint to examine")
        return
    yield from _look_at(checkpoint)
    with printer.step("reading the checkpoint"):
        models = [fetch_checkpoint(checkpoint)]
    yield from check_tokenizer(models[0])
    yield from check_weights(models[0])
    if FAMILIES[checkpoint.family].decodes_with_vae:
        models.append(fetch_checkpoint(open_vae(vae, checkpoint, storage_options=storage)))
        yield Finding(check="vae", detail=models[1].name, facts={"vae": models[1].name})
    with printer.step("loading the weights"):
        engine = _load(*models)
    yield Finding(check="weights", detail="every tensor that generation needs is there, in the shape of config.json")
    with printer.step("checking the guidance"):
        found = [*check_guidance(engine), *check_tags(engine, models[0])]
    yield from found
    with printer.step("checking the image decoder"):
        found = [*check_image_decoder(engine)]
    yield from found
    family = FAMILIES[checkpoint.family]
    request = probe_request(PROBE_PROMPT, settings={"cfg_weight": family.default_cfg_weight, **family.settings})
    with printer.step("measuring the throughput"):
        found = [*check_speed(engine, request)]
    yield from found


def _print(finding: Finding, printer: Printer) -> None:
    verdict = click.style("ok   ", fg="green") if finding.is_ok else click.style("FAULT", fg="red")
    if finding.is_ok and finding.is_note:
        verdict = click.style("note ", fg="yellow")
    printer.line(f"{verdict}  {finding.check:<22} {finding.detail}")


def _as_json(name: str, findings: list[Finding]) -> dict[str, Any]:
    facts = {key: value for finding in findings for key, value in finding.facts.items()}
    verdicts = {(True, False): "ok", (True, True): "note", (False, False): "fault", (False, True): "fault"}
    checks = [
        {"check": one.check, "verdict": verdicts[one.is_ok, one.is_note], "detail": one.detail} for one in findings
    ]
    num_faults = sum(not finding.is_ok for finding in findings)
    return {"checkpoint": name, "num_faults": num_faults, **facts, "checks": checks}


def _look_at(checkpoint: Checkpoint) -> Iterator[Finding]:
    commit = f" @ {checkpoint.revision}" if checkpoint.revision else ""
    facts = {"family": checkpoint.family, "layout": checkpoint.layout, "revision": checkpoint.revision}
    yield Finding(check="family", detail=f"{checkpoint.family}, {checkpoint.layout} layout{commit}", facts=facts)
    yield _known_model(checkpoint)
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
        return Finding(check="model", detail="none of the published ones that are known here", facts={"model": None})
    base = f", trained from {model.base}" if model.base else ""
    writes = f"; it writes a text before each image (model.protocol: {model.protocol})" if model.protocol else ""
    facts = {"model": model.name, "protocol": model.protocol, "license": model.license, "source": model.source}
    return Finding(check="model", detail=f"{model.name}{base}; license: {model.license}{writes}", facts=facts)


def _load(checkpoint: Checkpoint, vae: Checkpoint | None = None) -> Engine:
    """The engine as a job here would load it: in float32 on a CPU, in bfloat16 on a GPU."""
    from actors.device import find_device  # loads torch

    family = FAMILIES[checkpoint.family]
    recipe = Recipe(
        family=checkpoint.family,
        checkpoint=checkpoint.name,
        revision=checkpoint.revision,
        weights_sha256="",
        prompt_format=checkpoint.prompt_format,
        vae=vae.name if vae else None,
        vae_revision=vae.revision if vae else None,
        vae_sha256=None,
        dtype="bfloat16" if find_device()[0].type == "cuda" else "float32",
        sampler=family.sampler,
        cfg_weights=(family.default_cfg_weight,),
        images_per_prompt=1,
        seed=0,
    )
    return load_engine(recipe, *([checkpoint] if vae is None else [checkpoint, vae]))
