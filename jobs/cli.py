"""The command line: one command per verb, each a thin call of the module of its name. Loads neither torch nor ray."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from actors.errors import InputError, JobFailure
from janus_batch import VERSION

if TYPE_CHECKING:
    from workflows.storage.lease import WhenHeld

# What each kind of failure is called for the shell: 0 all done, 1 the job failed or is incomplete, 2 wrong input.
EXIT_FAILED, EXIT_WRONG = 1, 2

DEFAULT_IMAGE = f"registry.example.com/janus-batch:{VERSION}"

job_file = click.argument("job_file", metavar="JOB.yaml", type=click.Path())
output = click.argument("output", metavar="OUTPUT")
settings = click.option(
    "--set",
    "settings",
    metavar="KEY=VALUE",
    multiple=True,
    help="Change a key of the job file: sampling.seed=7. May be repeated.",
)
scheduled_at = click.option(
    "--scheduled-at", metavar="TIME", help="Fill the date fields from this time, not from the last that was due."
)
when_held_options = (
    click.option(
        "--wait-for-output", "when_held", flag_value="wait", help="If another run renders into the output, wait for it."
    ),
    click.option(
        "--ignore-lease", "when_held", flag_value="ignore", help="Render beside another run: safe, but paid for twice."
    ),
)
endpoint_url = click.option("--endpoint-url", metavar="URL", help="Address of an S3 store other than AWS.")


def when_held(command: Callable[..., int]) -> Callable[..., int]:
    """What a run does where another holds the output; without one of these options it is refused."""
    for option in when_held_options:
        command = option(command)
    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(VERSION, prog_name="janus-batch")
def cli() -> None:
    """Render images from prompts with Janus, Janus-Pro and JanusFlow, on one machine or a Ray cluster.

    `janus-batch render examples/quickstart.yaml` is a first run; docs/job-file.md lists the keys of a job file.

    Exit codes: 0 all done, 1 the job failed or is incomplete, 2 the job file or command line is wrong.
    """


@cli.command(short_help="Run jobs to their end, here or on a cluster.")
@click.argument("job_files", metavar="JOB.yaml...", type=click.Path(), nargs=-1, required=True)
@settings
@click.option("--address", metavar="ADDR", help="Ray cluster to join (host:port or auto); starts Ray here if left out.")
@click.option("--json", "as_json", is_flag=True, help="Print the progress as JSON, one object a line.")
@scheduled_at
@when_held
def render(
    job_files: tuple[str, ...],
    settings: tuple[str, ...],
    address: str | None,
    scheduled_at: str | None,
    when_held: WhenHeld | None,
    as_json: bool,
) -> int:
    """Run a job to its end, or several one after the other.

    Run it again after an interruption: it goes on where it stopped. An output that another run renders into at this
    moment is refused.
    """
    from jobs.job_file.spec import dated, read_job_file
    from jobs.render import render

    for spec in [dated(read_job_file(job_file, list(settings)), scheduled_at) for job_file in job_files]:
        render(spec, address=address, when_held=when_held or "refuse", as_json=as_json)
    return 0


@cli.command(short_help="Run a job on a cluster through Ray's job server.")
@click.argument("job_file", metavar="[JOB.yaml]", type=click.Path(), required=False)
@settings
@click.option(
    "--address",
    metavar="URL",
    required=True,
    envvar="RAY_API_SERVER_ADDRESS",
    show_envvar=True,
    help="Ray's job server (the dashboard): http://HEAD:8265.",
)
@click.option("--working-dir", metavar="DIR", help="Folder to upload, 100 MiB at most; this program's own if left out.")
@click.option(
    "--env",
    "variables",
    metavar="NAME",
    multiple=True,
    help="Send this environment variable, such as AWS_PROFILE. Whoever may see the Ray dashboard can read it.",
)
@click.option(
    "--runtime-env-json", metavar="JSON", default="{}", help="More of Ray's runtime environment: pip, env_vars."
)
@click.option("--metadata", metavar="KEY=VALUE", multiple=True, help="Shown beside the job by the Ray dashboard.")
@click.option(
    "--entrypoint-num-cpus", metavar="N", type=click.FloatRange(min=0), default=0, help="CPUs kept for the driver."
)
@click.option(
    "--entrypoint-num-gpus", metavar="N", type=click.FloatRange(min=0), default=0, help="GPUs kept for the driver."
)
@click.option(
    "--entrypoint-memory", metavar="BYTES", type=click.IntRange(min=0), default=0, help="Memory kept for the driver."
)
@click.option("--entrypoint-resources", metavar="JSON", default="{}", help="Kept for the driver: '{\"head\": 0.01}'.")
@click.option("--submission-id", metavar="ID", help="Name the submission; one that was handed in before is followed.")
@scheduled_at
@when_held
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
    """Run a job on a cluster through Ray's job server: show its log and return its exit code.

    Relative paths in the job file are looked up in the uploaded folder, on the cluster. The output must be a URL or
    an absolute path of a file system that all nodes share: one node's own disk keeps only what that node wrote.
    Ctrl-C leaves the job running.
    """
    from jobs.submit import Submission, stop, submit

    if job_file is None and stop_id is not None:
        return stop(stop_id, address=address)
    if job_file is None or stop_id is not None:
        raise click.UsageError("give either a JOB.yaml to submit or --stop ID")
    return submit(job_file, settings, Submission(**sent), address=address, is_waited_for=not no_wait)


@cli.command(short_help="Say what a job will take: images, GPU-hours, bytes.")
@job_file
@settings
@scheduled_at
@click.option("--measure", is_flag=True, help="Render a few images on this machine for their speed and size.")
@click.option("--images-per-second", type=click.FloatRange(min=0, min_open=True), help="Of one actor, if you know it.")
@click.option("--gpu-hour-price", type=click.FloatRange(min=0), help="What a GPU costs an hour, in your currency.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def plan(job_file: str, settings: tuple[str, ...], scheduled_at: str | None, **options: Any) -> int:
    """Say what a job would render and what that takes: images, GPU-hours, bytes, requests. Nothing is written."""
    from jobs.job_file.spec import dated, read_job_file
    from jobs.plan import plan

    return plan(dated(read_job_file(job_file, list(settings)), scheduled_at), **options)


@cli.command(short_help="Run jobs by the clock, or print a crontab for them.")
@click.argument("job_files", metavar="JOB.yaml...", type=click.Path(), nargs=-1, required=True)
@settings
@click.option("--address", metavar="URL", help="Submit the runs to this Ray job server; rendered here if left out.")
@click.option(
    "--state",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where runs are recorded (SQLite); in ~/.local/state/janus-batch if left out.",
)
@click.option("--once", "is_once", is_flag=True, help="Make the run that was last due, unless it was made, and end.")
@click.option("--list", "is_list", is_flag=True, help="Say when each job runs next and how its last runs went.")
@click.option("--to", "target", type=click.Choice(["cron", "kuberay"]), help="Print a crontab or a RayCronJob instead.")
@click.option(
    "--image",
    metavar="NAME",
    default=DEFAULT_IMAGE,
    help="With --to kuberay: the image that was built of deploy/Containerfile.",
)
def schedule(
    job_files: tuple[str, ...],
    settings: tuple[str, ...],
    address: str | None,
    state: Path | None,
    is_once: bool,
    is_list: bool,
    target: str | None,
    image: str,
) -> int:
    """Run jobs at the times that their `schedule` sections name, until this process is ended.

    A run that was missed while no scheduler ran is made up for, up to the section's catch_up.
    """
    if is_once + is_list + (target is not None) > 1:
        raise click.UsageError("--once, --list and --to do not go together")
    if target is not None:
        from jobs.schedule.export import export

        return export(job_files, settings, target, address=address, image=image)
    from jobs.schedule.run import default_state_file, schedule

    if is_list:
        from jobs.schedule.listing import list_runs

        return list_runs(job_files, settings, state or default_state_file())
    return schedule(job_files, settings, address=address, state_file=state or default_state_file(), is_once=is_once)


@cli.command(short_help="Say what an output holds and what is left.")
@output
@endpoint_url
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def status(output: str, endpoint_url: str | None, as_json: bool) -> int:
    """Say what an output holds and what is left, from storage alone. Exits 1 while images are missing."""
    from jobs.status import status

    return status(output, endpoint_url, as_json=as_json)


@cli.command(name="retry-rejected", short_help="Render the rejected rows of an output again.")
@output
@endpoint_url
@settings
@click.option("--address", metavar="ADDR", help="Ray cluster to join (host:port or auto); starts Ray here if left out.")
def retry_rejected(output: str, endpoint_url: str | None, settings: tuple[str, ...], address: str | None) -> int:
    """Render the rejected rows of an output again in place, with the same ids and seeds.

    For rows whose reason may have passed: numbers that became NaN, a GPU that failed, software that was mended.
    """
    from jobs.retry_rejected import retry_rejected

    return retry_rejected(output, endpoint_url, settings, address=address)


@cli.command(short_help="Check an output's files and hashes; render some again.")
@output
@endpoint_url
@click.option("--replay", metavar="N", type=click.IntRange(min=1), help="Render N random images again; compare bytes.")
@click.option("--seed", type=int, default=0, show_default=True, help="Which images --replay picks.")
@click.option("--repair", is_flag=True, help="Take back the shards at fault; the next run renders them again.")
@click.option("--clean", is_flag=True, help="Remove the files of lost attempts, which no manifest row names.")
def verify(output: str, endpoint_url: str | None, replay: int | None, seed: int, repair: bool, clean: bool) -> int:
    """Check every file, hash and key of an output against its manifest. Exits 1 on a fault."""
    from jobs.verify import verify

    return verify(output, endpoint_url, num_replays=replay or 0, seed=seed, is_repaired=repair, is_cleaned=clean)


@cli.command(short_help="Write OUTPUT/report.html: pictures, settings, speed.")
@output
@endpoint_url
def report(output: str, endpoint_url: str | None) -> int:
    """Write OUTPUT/report.html: the pictures, sweeps as grids, settings, throughput and rejected rows as one page."""
    from jobs.report import report

    return report(output, endpoint_url)


@cli.command(short_help="Write an output as a dataset, or for a benchmark.")
@output
@click.argument("dest", metavar="DEST")
@click.option(
    "--layout",
    type=click.Choice(["imagefolder", "webdataset", "geneval", "dpg"]),
    required=True,
    help="imagefolder and webdataset are datasets; geneval and dpg are what these benchmarks read.",
)
@click.option("--licence", "--license", metavar="ID", help="Licence of the images, for the dataset card: cc0-1.0.")
@click.option("--allow-incomplete", is_flag=True, help="Export what is there of an output that is not finished.")
@endpoint_url
def export(output: str, dest: str, endpoint_url: str | None, **options: Any) -> int:
    """Write an output into DEST, an empty folder or URL, as other programs read it, with a dataset card.

    The same command goes on where one was interrupted.
    """
    from jobs.export import export

    return export(output, dest, endpoint_url, **options)


@cli.command(short_help="Is a checkpoint whole, and does its guidance work?")
@click.argument("checkpoint", metavar="CHECKPOINT")
@click.option("--revision", metavar="REV", help="Branch, tag or commit of a hub id.")
@click.option("--vae", metavar="NAME", help="JanusFlow: the VAE, if there is none in the checkpoint's folder.")
@click.option("--prompt-format", type=click.Choice(["janus", "janus-pro"]), help="Found from the files if left out.")
@endpoint_url
def doctor(checkpoint: str, **options: Any) -> int:
    """Is this checkpoint whole, and does its guidance work? Exits 1 on a fault."""
    from jobs.doctor import doctor

    return doctor(checkpoint, **options)


def main() -> None:
    """Run a verb and turn what it raises into one clear line and the right exit code."""
    try:
        sys.exit(cli(standalone_mode=False))
    except click.ClickException as error:
        error.show()
        sys.exit(EXIT_WRONG)
    except (KeyboardInterrupt, click.Abort):
        # Ray takes seconds to shut down. A second Ctrl-C is quicker, for what was started here ends with this process.
        signal.signal(signal.SIGINT, lambda *_: os._exit(EXIT_FAILED))
        _fail("interrupted; the same command goes on where this one stopped", EXIT_FAILED)
    except InputError as error:
        _fail(str(error), EXIT_WRONG)
    except JobFailure as error:
        _fail(f"{error}\nwhat is committed stands; the same command goes on where this one stopped", EXIT_FAILED)


def _fail(message: str, code: int) -> None:
    for line in message.splitlines():
        click.echo(f"janus-batch: {line}", err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
