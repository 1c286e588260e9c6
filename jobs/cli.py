"""The command line: one command per verb, each a thin call of the module of its name. Loads neither torch nor ray."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from actors.errors import InputError, JobFailure
from janus_batch import VERSION
from jobs import options
from jobs.terminal.exit_codes import DONE, INCOMPLETE, WRONG

if TYPE_CHECKING:
    from workflows.output.acceptance import RejectionLimit
    from workflows.storage.lease import WhenHeld

DEFAULT_IMAGE = f"registry.example.com/janus-batch:{VERSION}"


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(VERSION, prog_name="janus-batch")
def cli() -> None:
    """Render images from prompts with Janus, Janus-Pro and JanusFlow, on one machine or a Ray cluster.

    Start with `janus-batch render examples/quickstart.yaml`. docs/job-file.md lists the keys of a job file.

    Exit codes: 0 done, 1 the job failed or is incomplete, 2 the job file or command line is wrong.
    """


@cli.command(short_help="Run jobs, here or on a cluster.")
@options.jobs_or_none
@options.without_job_file
@options.ray_address
@click.option("--json", "as_json", is_flag=True, help="Print progress as JSON, one object per line.")
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
    max_rejected: RejectionLimit | None,
    allow_empty: bool,
    **given: Any,
) -> int:
    """Run one or more jobs, one after the other, or one without a job file.

    Without a job file: janus-batch render --prompt "a red circle" --checkpoint janus-shapes --output out

    After an interruption, run the same command again: it resumes where it stopped. An output that another run is
    writing to is refused.
    """
    from jobs.job_file.dates import dated
    from jobs.job_file.one_line import one_line_spec
    from jobs.job_file.read import read_job_file
    from jobs.render import render

    if not job_files or any(given.values()):
        specs = [one_line_spec(job_files, settings, **given)]
    else:
        specs = [read_job_file(job_file, list(settings)) for job_file in job_files]
    for spec in [dated(spec, scheduled_at) for spec in specs]:
        render(
            spec,
            prompts=given["prompts"],
            address=address,
            when_held=when_held or "refuse",
            as_json=as_json,
            max_rejected=max_rejected,
            allow_empty=allow_empty,
        )
    return DONE


@cli.command(short_help="Write a job file for this machine.")
@click.argument("path", metavar="[PATH]", type=click.Path(), default="job.yaml")
def init(path: str) -> int:
    """Write a commented job file for this machine, and example prompts next to it. Overwrites no file."""
    from jobs.init import init
    from workflows.dispatch.cluster import Cluster

    return init(path, num_gpus=Cluster().num_gpus())


@cli.command(short_help="Run a job through the job server of a Ray cluster.")
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
    from jobs.submit import Submission, stop, submit

    if job_file is None and stop_id is not None:
        return stop(stop_id, address=address)
    if job_file is None or stop_id is not None:
        raise click.UsageError("give either a JOB.yaml to submit or --stop ID")
    return submit(job_file, settings, Submission(**sent), address=address, is_waited_for=not no_wait)


@cli.command(short_help="Estimate the images, GPU hours and bytes of a job.")
@options.job
@options.needs_a_job_file
@options.scheduled_at
@click.option("--measure", is_flag=True, help="Render a few images on this machine to measure speed and size.")
@click.option("--images-per-second", type=click.FloatRange(min=0, min_open=True), help="Throughput of one actor.")
@click.option("--gpu-hour-price", type=click.FloatRange(min=0), help="Price of one GPU hour, in any currency.")
@options.as_json
def plan(job_file: str, settings: tuple[str, ...], scheduled_at: str | None, **how: Any) -> int:
    """Estimate what a job takes: images, GPU hours, bytes, requests. Writes nothing."""
    from jobs.job_file.dates import dated
    from jobs.job_file.read import read_job_file
    from jobs.plan import plan

    return plan(dated(read_job_file(job_file, list(settings)), scheduled_at), **how)


@cli.command(short_help="Run jobs on a schedule, or export a crontab for them.")
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
def schedule(
    job_files: tuple[str, ...],
    settings: tuple[str, ...],
    address: str | None,
    state_file: Path | None,
    is_once: bool,
    is_list: bool,
    target: str | None,
    image: str,
) -> int:
    """Run jobs at the times in their `schedule` sections, until this process is stopped.

    Runs that were missed while no scheduler was running are made up for, up to the section's catch_up.
    """
    if is_once + is_list + (target is not None) > 1:
        raise click.UsageError("give only one of --once, --list and --to")
    if target is not None:
        from jobs.schedule.export import export

        return export(job_files, settings, target, address=address, image=image)
    from jobs.schedule.run import default_state_file, schedule

    state_file = state_file or default_state_file()
    if is_list:
        from jobs.schedule.listing import list_runs

        return list_runs(job_files, settings, state_file)
    return schedule(job_files, settings, address=address, state_file=state_file, is_once=is_once)


@cli.command(short_help="Show what an output holds and what remains.")
@options.output
@options.as_json
def status(output: str, endpoint_url: str | None, as_json: bool) -> int:
    """Show what an output holds and what remains. Reads storage only. Exits with 1 while images are missing."""
    from jobs.status import status

    return status(output, endpoint_url, as_json=as_json)


@cli.command(name="retry-rejected", short_help="Re-render the rejected rows of an output.")
@options.output
@options.settings
@options.ray_address
def retry_rejected(output: str, endpoint_url: str | None, settings: tuple[str, ...], address: str | None) -> int:
    """Re-render the rejected rows of an output in place, with the same ids and seeds.

    Use it when the reason is gone: a GPU fault, NaN values, a bug that is fixed.
    """
    from jobs.retry_rejected import retry_rejected

    return retry_rejected(output, endpoint_url, settings, address=address)


@cli.command(short_help="Check the files, hashes and keys of an output.")
@options.output
@click.option("--replay", metavar="N", type=click.IntRange(min=1), help="Re-render N random images and compare bytes.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed that picks the images of --replay.")
@click.option("--repair", is_flag=True, help="Remove damaged images; the next run re-renders them.")
@click.option("--clean", is_flag=True, help="Remove orphans: files that no manifest row names.")
def verify(output: str, endpoint_url: str | None, replay: int | None, seed: int, repair: bool, clean: bool) -> int:
    """Check the files, hashes and keys of an output against its manifest. Exits with 1 on a fault."""
    from jobs.verify import verify

    return verify(output, endpoint_url, num_replays=replay or 0, seed=seed, is_repaired=repair, is_cleaned=clean)


@cli.command(short_help="Re-render one image, or vary it.")
@options.output
@click.argument("image_id", metavar="IMAGE_ID")
@click.option(
    "--set", "settings", metavar="KEY=VALUE", multiple=True, help="Vary it: sampling.cfg_weight=7. Can be repeated."
)
@click.option("--to", metavar="FILE", type=click.Path(dir_okay=False), help="The file to write. Default: IMAGE_ID.png.")
def replay(output: str, endpoint_url: str | None, image_id: str, **how: Any) -> int:
    """Re-render one image of an output from its manifest row, on this machine, and compare it with the stored one.

    Writes the image into the current folder. Exits with 1 if an image that is not varied has other bytes.
    """
    from jobs.replay import replay

    return replay(output, image_id, endpoint_url, **how)


@cli.command(short_help="Write OUTPUT/report.html.")
@options.output
def report(output: str, endpoint_url: str | None) -> int:
    """Write OUTPUT/report.html: images, sweeps as grids, settings, throughput and rejected rows on one page."""
    from jobs.report import report

    return report(output, endpoint_url)


@cli.command(short_help="Export an output as a dataset, or for a benchmark.")
@options.output
@click.argument("dest", metavar="DEST")
@click.option(
    "--layout",
    type=click.Choice(["imagefolder", "webdataset", "geneval", "dpg"]),
    required=True,
    help="Dataset layouts: imagefolder, webdataset. Benchmark layouts: geneval, dpg.",
)
@click.option("--licence", "--license", metavar="ID", help="License of the images, for the dataset card: cc0-1.0.")
@click.option("--allow-incomplete", is_flag=True, help="Export an output that is not finished.")
def export(output: str, dest: str, endpoint_url: str | None, **how: Any) -> int:
    """Export an output to DEST, an empty folder or URL, with a dataset card.

    After an interruption, run the same command again.
    """
    from jobs.export import export

    return export(output, dest, endpoint_url, **how)


@cli.command(short_help="Check a checkpoint and its guidance.")
@click.argument("checkpoint", metavar="CHECKPOINT")
@click.option("--revision", metavar="REV", help="Branch, tag or commit of a hub id.")
@click.option("--vae", metavar="NAME", help="JanusFlow: the VAE, if the checkpoint's folder has none.")
@click.option("--prompt-format", type=click.Choice(["janus", "janus-pro"]), help="Default: read from the checkpoint.")
@options.endpoint_url
def doctor(checkpoint: str, **how: Any) -> int:
    """Check that a checkpoint is complete and that its guidance works. Exits with 1 on a fault."""
    from jobs.doctor import doctor

    return doctor(checkpoint, **how)


def main() -> None:
    """Run a verb. Whatever it raises becomes one clear line and the right exit code."""
    try:
        sys.exit(cli(prog_name="janus-batch", standalone_mode=False))
    except click.ClickException as error:
        error.show()
        sys.exit(WRONG)
    except (KeyboardInterrupt, click.Abort):
        # Ray takes seconds to shut down. A second Ctrl-C exits at once: what was started here ends with this process.
        signal.signal(signal.SIGINT, lambda *_: os._exit(INCOMPLETE))
        _fail("interrupted; run the same command again to resume", INCOMPLETE)
    except InputError as error:
        _fail(str(error), WRONG)
    except JobFailure as error:
        _fail(f"{error}\n{error.advice}", INCOMPLETE)


def _fail(message: str, code: int) -> None:
    for line in message.splitlines():
        click.echo(f"janus-batch: {line}", err=True)
    sys.exit(code)
