"""`janus-batch schedule --to cron | kuberay`: the schedule of a job for a machine's cron or a Kubernetes cluster."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import yaml
from cronsim import CronSim

from jobs.job_file.plain_id import plain_id
from jobs.schedule.runner import PROGRAM
from jobs.schedule.scheduled_job import ScheduledJob, ScheduleError, read_scheduled_jobs

TEMPLATE = Path(__file__).with_name("kuberay.yaml")
MAX_NAME_LENGTH = 40  # KubeRay appends the time to this name, and Kubernetes limits the length
JOB_FOLDER = "/etc/janus-batch"
_OTHERS_LACK = re.compile(r"#|(^|[\s,])\d?(L|LW)(?=$|[\s,/])", re.IGNORECASE)


def export(
    job_files: Sequence[str],
    settings: Sequence[str],
    target: str,
    *,
    address: str | None,
    image: str,
    acceptance: Sequence[str] = (),
) -> int:
    """Print the crontab or the manifests. Raises ScheduleError if the job would behave differently there.

    `acceptance`: options of each run that say what its output has to be.
    """
    for number, job in enumerate(read_scheduled_jobs(job_files, settings)):
        _check_cron(job, target)
        options = [*_options(job, settings), *acceptance]
        if target == "cron":
            click.echo(_crontab(job, options, address))
        else:
            _check_locations(job)
            documents = [_config_map(job), _ray_cron_job(job, options, image)]
            text = yaml.safe_dump_all(documents, sort_keys=False, width=110)
            click.echo(("---\n" if number else "") + text, nl=False)
    return 0


def _check_cron(job: ScheduledJob, target: str) -> None:
    """Raise ScheduleError for an expression that only this program's own scheduler supports."""
    if len(job.schedule.cron.split()) != 5:
        raise ScheduleError(
            f"schedule.cron: --to {target} takes five fields, without seconds, got {job.schedule.cron!r}"
        )
    if _OTHERS_LACK.search(job.schedule.cron):
        raise ScheduleError(f"schedule.cron: --to {target} takes no L, W or #, got {job.schedule.cron!r}")


def _check_locations(job: ScheduledJob) -> None:
    """Raise ScheduleError for a relative path: the container runs in another folder."""
    locations = {**job.spec.data_folders, "output": job.spec.output, **job.spec.model_folders(Path())}
    for key, location in locations.items():
        if "://" not in location and not location.startswith("/"):
            raise ScheduleError(
                f"{key}: --to kuberay needs a URL or a path that is mounted in the container, got {location!r}"
            )


def _crontab(job: ScheduledJob, options: Sequence[str], address: str | None) -> str:
    """Three lines. Relative paths refer to the current folder."""
    verb = ["render"] if address is None else ["submit", "--address", address]
    command = [*PROGRAM, *verb, *options, str(job.job_file.resolve())]
    log = re.sub(r"[^\w.-]+", "-", job.name)
    run = f'cd {shlex.quote(os.getcwd())} && {shlex.join(command)} >> "$HOME/{log}.log" 2>&1'
    lines = [
        f"# {job.name}: a cron without CRON_TZ (such as Debian's) uses the machine's time zone",
        f"CRON_TZ={job.schedule.time_zone}",
        " ".join(job.schedule.cron.split()) + " " + run.replace("%", r"\%"),  # cron reads % as a line break
    ]
    for line in lines:
        if not line.isprintable():
            raise ScheduleError(f"--to cron: the name, settings and paths cannot contain line breaks, got {line!r}")
    return "\n".join(lines)


def _config_map(job: ScheduledJob) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": _dns_name(job.name)},
        "data": {_file_name(job): _Block(job.job_file.read_text(encoding="utf-8"))},
    }


class _Block(str):
    """Text that YAML writes as a literal block."""


yaml.SafeDumper.add_representer(
    _Block, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", str(text), style="|")
)


def _ray_cron_job(job: ScheduledJob, options: Sequence[str], image: str) -> dict[str, Any]:
    """The template, filled in from the job file."""
    section, workers = job.schedule, job.spec.workers
    manifest: dict[str, Any] = yaml.safe_load(TEMPLATE.read_text(encoding="utf-8"))
    manifest["metadata"]["name"] = _dns_name(job.name)
    spec = manifest["spec"]
    spec["schedule"], spec["timeZone"] = _with_sunday_as_0(section.cron), section.time_zone
    template = spec["jobTemplate"]
    template["entrypoint"] = shlex.join(["janus-batch", "render", *options, f"{JOB_FOLDER}/{_file_name(job)}"])
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


def _with_sunday_as_0(cron: str) -> str:
    """The expression with weekdays 0 to 6: the cron library of KubeRay does not accept 7."""
    *others, weekdays = cron.split()
    if "7" in weekdays:
        days = CronSim(cron, datetime.now(UTC)).weekdays
        weekdays = ",".join(str(day) for day in sorted({day % 7 for day in days if isinstance(day, int)}))
    return " ".join([*others, weekdays])


def _options(job: ScheduledJob, settings: Sequence[str]) -> list[str]:
    """Options of `render`. Neither cron nor RayCronJob knows if the last run is still running; the lease does."""
    options = ["--wait-for-output"] if job.schedule.when_running == "queue" else []
    return options + [part for setting in settings for part in ("--set", setting)]


def _file_name(job: ScheduledJob) -> str:
    """The job file's name in the container: a job without a name of its own is called after it."""
    return f"{plain_id(job.job_file.stem)}.yaml"


def _dns_name(name: str) -> str:
    """The job's name as a Kubernetes name. Raises ScheduleError if no character remains."""
    found = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:MAX_NAME_LENGTH].strip("-")
    if not found:
        raise ScheduleError(f"name: a Kubernetes name consists of a-z, 0-9 and -, got {name!r}")
    return found
