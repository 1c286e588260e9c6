"""`janus-batch retry-rejected`: retry the rejected rows of an output in place, with the same ids and seeds."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from jobs.job_file.read import check_fields
from jobs.job_file.resolve import resolve
from jobs.job_file.spec import JobSpec
from jobs.terminal.printer import printing
from jobs.terminal.show import showing
from workflows.dispatch.cluster import Cluster
from workflows.output.claim import Claim, open_output
from workflows.run import run_retries
from workflows.storage.retry import wait_for_storage
from workflows.storage.store import Storage


def retry_rejected(
    output: str,
    endpoint_url: str | None,
    settings: tuple[str, ...],
    *,
    address: str | None,
    as_json: bool = False,
    is_quiet: bool = False,
) -> int:
    """0 if every rejected row was retried, whether it succeeded or not; 1 if the prompt files of some are gone."""
    with printing(as_json=as_json, is_quiet=is_quiet) as printer:
        storage, claim = open_output(output, endpoint_url, may_hold_answers=True)
        spec, cluster = _spec_of(claim, storage, settings), Cluster(address)
        with showing(claim.name, storage.url, is_quiet=as_json or is_quiet) as show:
            num_gpus = cluster.num_gpus() if spec.workers.gpus_per_actor is None else 0
            seconds = spec.workers.storage_retry_seconds
            job = wait_for_storage(spec.model.checkpoint, seconds, show.line, resolve, spec, num_gpus=num_gpus)
            retries = run_retries(job, cluster, show)
        if is_quiet:  # otherwise the run has said it
            printer.line(f"done: {retries.num_rendered:,} rendered, {retries.num_rejected:,} still rejected")
        printer.result({"job": claim.name, "output": storage.url, **asdict(retries)})
    return 1 if retries.num_shards_gone else 0


def _spec_of(claim: Claim, storage: Storage, settings: tuple[str, ...]) -> JobSpec:
    """The job file that started the output, with its locations and its model as they were resolved then."""
    written, recipe = claim.job_file, claim.recipe
    model: dict[str, Any] = {
        "checkpoint": recipe.checkpoint,
        "revision": recipe.revision,
        "dtype": recipe.dtype,
        "vae": written.get("model", {}).get("vae") and recipe.vae,
        "vae_revision": recipe.vae_revision,
    }
    if recipe.adapters:
        keys = ("name", "revision", "weight")
        model["adapter"] = [{key: getattr(adapter, key) for key in keys} for adapter in recipe.adapters]
    fields: dict[str, Any] = {
        **written,
        "prompts": claim.prompts,
        "output": storage.url,
        "storage": storage.options,
        "model": {**written.get("model", {}), **model},
    }
    if recipe.judge is not None and fields["judge"].get("checkpoint") is not None:
        fields["judge"] = {
            **fields["judge"],
            "checkpoint": recipe.judge.checkpoint,
            "revision": recipe.judge.revision,
        }
    if recipe.look is not None and (written.get("understand") or {}).get("root"):
        fields["understand"] = {**written["understand"], "root": recipe.look.root}
    return check_fields(fields, settings)
