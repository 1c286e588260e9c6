"""Commands that render: `render`, `submit`, `schedule`, and what goes before, `init` and `plan`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from janus_batch import VERSION
from jobs.cli import options
from jobs.terminal.exit_codes import DONE

if TYPE_CHECKING:
    from workflows.output.acceptance import RejectionLimit
    from workflows.storage.lease import WhenHeld

DEFAULT_IMAGE = f"registry.example.com/janus-batch:{VERSION}"


@click.command(short_help="Run jobs, here or on a cluster.")
@options.jobs_or_none
@options.without_job_file
@options.ray_address
@click.option("--json", "as_json", is_flag=True, help="Print progress as JSON, one object per line.")
@options.quiet
@click.option("--open", "opens_report", is_flag=True, help="Show the report in a browser, from its first images on.")
@options.acceptance
@options.scheduled_at
@options.when_held
def render(
    job_files: tuple[str, ...],
    settings: tuple[str, ...],
    address: str | None,
    scheduled_at: str | None,
    when_held: WhenHeld | None,
    as_json: bool,
    is_quiet: bool,
    opens_report: bool,
    max_rejected: RejectionLimit | None,
    allow_empty: bool,
    **given: Any,
) -> int:
    """Run one or more jobs, one after the other, or one without a job file.

    \b
    Without a job file:
      janus-batch render --prompt "a red circle" --checkpoint janus-shapes --output out

    After an interruption, run the same command again: it resumes where it stopped. An output that another run is
    writing to is refused.
    """
    from jobs.job_file.dates import dated
    from jobs.job_file.one_line import one_line_spec
    from jobs.job_file.read import read_job_file
    from jobs.job_file.sweep import check_outputs_apart, jobs_of_sweep
    from jobs.render import render

    if not job_files or any(given.values()):
        specs = [one_line_spec(job_files, settings, **given)]
    else:
        specs = [read_job_file(job_file, list(settings)) for job_file in job_files]
    jobs = [job for spec in specs for job in jobs_of_sweep(dated(spec, scheduled_at))]
    check_outputs_apart(jobs)
    for number, job in enumerate(jobs, 1):
        render(
            job,
            prompts=given["prompts"],
            address=address,
            when_held=when_held or "refuse",
            as_json=as_json,
            is_quiet=is_quiet,
            opens_report=opens_report,
            max_rejected=max_rejected,
            allow_empty=allow_empty,
            is_last=number == len(jobs),
        )
    return DONE


@click.command(short_help="Caption images, or answer questions about them.")
@click.argument("source", metavar="IMAGES")
@click.option(
    "--checkpoint", metavar="NAME", required=True, help="The model that looks, such as deepseek-ai/Janus-Pro-1B."
)
@click.option("--output", metavar="FOLDER", required=True, help="The output folder.")
@click.option("--question", metavar="TEXT", help="Ask this about each image without a question. Default: describe it.")
@click.option("--score", "is_scored", is_flag=True, help="Also write the probability of yes for every question.")
@options.settings
@options.ray_address
@click.option("--json", "as_json", is_flag=True, help="Print progress as JSON, one object per line.")
@options.quiet
@options.acceptance
@options.when_held
def caption(
    source: str,
    settings: tuple[str, ...],
    address: str | None,
    when_held: WhenHeld | None,
    as_json: bool,
    is_quiet: bool,
    max_rejected: RejectionLimit | None,
    allow_empty: bool,
    **asked: Any,
) -> int:
    """Look at images with Janus, Janus-Pro or JanusFlow, and write captions, answers and scores to Parquet files.

    IMAGES: prompt files (a file, a glob or a folder) with a column `image`, and a column `question` if each image has a
    question of its own; or an output of `render`. `render` with `task: understand` in the job file does the same.
    """
    from jobs.job_file.one_line import caption_spec
    from jobs.render import render

    return render(
        caption_spec(source, settings, **asked),
        address=address,
        when_held=when_held or "refuse",
        as_json=as_json,
        is_quiet=is_quiet,
        max_rejected=max_rejected,
        allow_empty=allow_empty,
        is_last=True,
    )


@click.command(short_help="Write a job file for this machine.")
@click.argument("path", metavar="[PATH]", type=click.Path(), default="job.yaml")
def init(path: str) -> int:
    """Write a commented job file for this machine, and example prompts next to it. Overwrites no file."""
    from jobs.init import init
    from workflows.dispatch.cluster import Cluster

    return init(path, num_gpus=Cluster().num_gpus())


@click.command(short_help="Run a job through the job server of a Ray cluster.")
@click.argument("job_file", metavar="[JOB.yaml]", type=click.Path(), required=False)
@options.needs_a_job_file
@options.settings
@click.option(
    "--address",
    metavar="URL",
    required=True,
    envvar="RAY_API_SERVER_ADDRESS",
    show_envvar=True,
    help="Ray's job server (the dashboard): http://HEAD:8265.",
)
@options.submission
@options.acceptance
@options.scheduled_at
@options.when_held
@click.option("--no-wait", is_flag=True, help="Print the submission id and return at once.")
@click.option("--stop", "stop_id", metavar="ID", help="Stop the job with this submission id instead.")
def submit(
    job_file: str | None,
    settings: tuple[str, ...],
    address: str,
    stop_id: str | None,
    no_wait: bool,
    **sent: Any,
) -> int:
    """Run a job on a Ray cluster through its job server: show the log and return the job's exit code.

    Relative paths in the job file refer to the uploaded folder. The output must be a URL, or an absolute path on a
    file system that all nodes share. Ctrl-C leaves the job running.
    """
    from jobs.submit.submit import Submission, stop, submit

    if job_file is None and stop_id is not None:
        return stop(stop_id, address=address)
    if job_file is None or stop_id is not None:
        raise click.UsageError("give either a JOB.yaml to submit or --stop ID")
    return submit(job_file, settings, Submission(**sent), address=address, is_waited_for=not no_wait)


@click.command(short_help="Estimate the images, GPU-hours and bytes of a job.")
@options.job
@options.needs_a_job_file
@options.scheduled_at
@click.option("--measure", is_flag=True, help="Render a few images on this machine to measure speed and size.")
@click.option("--images-per-second", type=click.FloatRange(min=0, min_open=True), help="Throughput of one actor.")
@click.option("--gpu-hour-price", type=click.FloatRange(min=0), help="Price of one GPU-hour, in any currency.")
@options.as_json
def plan(job_file: str, settings: tuple[str, ...], scheduled_at: str | None, **how: Any) -> int:
    """Estimate what a job takes: images, GPU-hours, bytes, requests. Writes nothing."""
    from jobs.job_file.dates import dated
    from jobs.job_file.read import read_job_file
    from jobs.job_file.sweep import jobs_of_sweep
    from jobs.plan import plan

    spec = dated(read_job_file(job_file, list(settings)), scheduled_at)
    return max(plan(job, **how) for job in jobs_of_sweep(spec))


@click.command(short_help="Run jobs on a schedule, or export a crontab for them.")
@options.jobs
@click.option("--address", metavar="URL", help="Submit runs to this Ray job server. Default: render on this machine.")
@click.option(
    "--state",
    "state_file",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="SQLite file that records runs. Default: in ~/.local/state/janus-batch.",
)
@click.option("--once", "is_once", is_flag=True, help="Run what was due last, unless it ran, then exit.")
@click.option("--list", "is_list", is_flag=True, help="List each job's next and last runs.")
@click.option("--to", "target", type=click.Choice(["cron", "kuberay"]), help="Print a crontab or a RayCronJob instead.")
@click.option("--image", metavar="NAME", default=DEFAULT_IMAGE, help="With --to kuberay: the container image.")
@options.acceptance
def schedule(
    job_files: tuple[str, ...],
    settings: tuple[str, ...],
    address: str | None,
    state_file: Path | None,
    is_once: bool,
    is_list: bool,
    target: str | None,
    image: str,
    max_rejected: RejectionLimit | None,
    allow_empty: bool,
) -> int:
    """Run jobs at the times in their `schedule` sections, until this process is stopped.

    Runs that were missed while no scheduler was running are made up for, up to the section's catch_up.
    """
    if is_once + is_list + (target is not None) > 1:
        raise click.UsageError("give only one of --once, --list and --to")
    from jobs.acceptance import acceptance_options

    acceptance = acceptance_options(max_rejected, allow_empty=allow_empty)
    if target is not None:
        from jobs.schedule.export import export

        return export(job_files, settings, target, address=address, image=image, acceptance=acceptance)
    from jobs.schedule.run import default_state_file, schedule

    state_file = state_file or default_state_file()
    if is_list:
        from jobs.schedule.listing import list_runs

        return list_runs(job_files, settings, state_file)
    return schedule(job_files, settings, address=address, state_file=state_file, is_once=is_once, acceptance=acceptance)
