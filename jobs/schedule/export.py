"""`janus-batch schedule --to cron | kuberay`: the schedule of a job for a machine's cron or a Kubernetes cluster."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import yaml

from jobs.schedule.scheduled_job import ScheduledJob, ScheduleError, read_scheduled_jobs

TEMPLATE = Path(__file__).with_name("kuberay.yaml")
MAX_NAME_LENGTH = 40  # KubeRay adds the time to the names of a RayCronJob's jobs, and Kubernetes has a limit
JOB_PLACE = "/etc/janus-batch/job.yaml"
_OTHERS_LACK = re.compile(r"#|(^|[\s,])\d?(L|LW)(?=$|[\s,/])", re.IGNORECASE)


def export(job_files: Sequence[str], settings: Sequence[str], target: str, *, address: str | None, image: str) -> int:
    """Print the crontab or the manifests. Raises ScheduleError for a schedule with seconds, which neither knows."""
    for number, job in enumerate(read_scheduled_jobs(job_files, settings)):
        _check_cron(job, target)
        if target == "cron":
            click.echo(_crontab(job, settings, address))
        else:
            documents = [_config_map(job), _ray_cron_job(job, settings, image)]
            text = yaml.safe_dump_all(documents, sort_keys=False, width=110)
            click.echo(("---\n" if number else "") + text, nl=False)
    return 0


def _check_cron(job: ScheduledJob, target: str) -> None:
    """Raise ScheduleError for what this program's own scheduler takes and cron does not."""
    if len(job.schedule.cron.split()) != 5:
        raise ScheduleError(
            f"schedule.cron: --to {target} takes five fields, without seconds, got {job.schedule.cron!r}"
        )
    if _OTHERS_LACK.search(job.schedule.cron):
        raise ScheduleError(f"schedule.cron: --to {target} takes no L, W or #, got {job.schedule.cron!r}")


def _crontab(job: ScheduledJob, settings: Sequence[str], address: str | None) -> str:
    section = job.schedule
    verb = ["render"] if address is None else ["submit", "--address", address]
    command = [sys.executable, "-m", "jobs", *verb, *_options(job, settings), str(job.job_file.resolve())]
    root, log = Path(__file__).parents[2], f"$HOME/{_dns_name(job.name)}.log"
    line = f'cd {shlex.quote(str(root))} && {shlex.join(command)} >> "{log}" 2>&1'
    line = line.replace("%", r"\%")  # which cron takes for a line break
    note = f"# {job.name}: a cron that does not know CRON_TZ (Debian's) takes the machine's own time zone"
    return f"{note}\nCRON_TZ={section.time_zone}\n{section.cron} {line}"


def _config_map(job: ScheduledJob) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": _dns_name(job.name)},
        "data": {"job.yaml": _Block(job.job_file.read_text(encoding="utf-8"))},
    }


class _Block(str):
    """Text that is written line by line as it stands."""


yaml.SafeDumper.add_representer(
    _Block, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", str(text), style="|")
)


def _ray_cron_job(job: ScheduledJob, settings: Sequence[str], image: str) -> dict[str, Any]:
    """The template with what the job file says laid in."""
    section, workers = job.schedule, job.spec.workers
    manifest: dict[str, Any] = yaml.safe_load(TEMPLATE.read_text(encoding="utf-8"))
    manifest["metadata"]["name"] = _dns_name(job.name)
    spec = manifest["spec"]
    spec["schedule"], spec["timeZone"] = section.cron, section.time_zone
    template = spec["jobTemplate"]
    template["entrypoint"] = shlex.join(["janus-batch", "render", *_options(job, settings), JOB_PLACE])
    template["backoffLimit"] = section.max_tries - 1
    cluster = template["rayClusterSpec"]
    cluster["rayVersion"] = version("ray")
    head, (group,) = cluster["headGroupSpec"]["template"]["spec"], cluster["workerGroupSpecs"]
    head["containers"][0]["image"] = image
    head["volumes"][0]["configMap"]["name"] = _dns_name(job.name)
    container = group["template"]["spec"]["containers"][0]
    container["image"] = image
    group["maxReplicas"] = workers.max or group["maxReplicas"]
    gpus = "1" if workers.gpus_per_actor is None else f"{workers.gpus_per_actor:g}"
    for amounts in container["resources"].values():
        amounts["nvidia.com/gpu"] = gpus
    if workers.accelerator_type:
        group["resources"] = {f"accelerator_type:{workers.accelerator_type}": "1"}
    return manifest


def _options(job: ScheduledJob, settings: Sequence[str]) -> list[str]:
    """Neither cron nor RayCronJob knows whether the last run still runs: the lease on the output does."""
    options = ["--wait-for-output"] if job.schedule.when_running == "queue" else []
    return options + [part for setting in settings for part in ("--set", setting)]


def _dns_name(name: str) -> str:
    """The job's name as Kubernetes allows names. Raises ScheduleError if nothing is left of it."""
    found = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:MAX_NAME_LENGTH].strip("-")
    if not found:
        raise ScheduleError(f"name: Kubernetes names are made of a-z, 0-9 and -, got {name!r}")
    return found
