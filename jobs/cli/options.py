"""Options of the command line that several verbs share, and the many options of `submit`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from actors.errors import one_line
from jobs.cli.completion import complete_checkpoints, complete_folders, complete_keys

if TYPE_CHECKING:
    from workflows.output.acceptance import RejectionLimit

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def _group(*options: Decorator) -> Decorator:
    """One decorator that adds the options in this order."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def _settings(example: str) -> Decorator:
    return click.option(
        "--set",
        "settings",
        metavar="KEY=VALUE",
        multiple=True,
        help=f"Change a key of the job file, such as {example}. Can be repeated.",
        shell_complete=complete_keys,
    )


settings = _settings("sampling.seed=7")
settings_of_model = _settings("model.adapter=./lora")
settings_of_run = _settings("workers.max=2")  # for outputs whose recipe is settled
job = _group(click.argument("job_file", metavar="JOB.yaml", type=click.Path()), settings)
jobs = _group(click.argument("job_files", metavar="JOB.yaml...", type=click.Path(), nargs=-1, required=True), settings)
jobs_or_none = _group(click.argument("job_files", metavar="[JOB.yaml...]", type=click.Path(), nargs=-1), settings)
without_job_file = _group(
    click.option("--prompt", "prompts", metavar="TEXT", multiple=True, help="Render this prompt. Can be repeated."),
    click.option(
        "--prompts",
        "prompts_path",
        metavar="PATH",
        help="Render the prompts of files: Parquet, CSV, JSON lines, text.",
    ),
    click.option(
        "--checkpoint",
        metavar="NAME",
        help="The model to render with, such as janus-shapes.",
        shell_complete=complete_checkpoints,
    ),
    click.option("--output", metavar="FOLDER", help="The output folder.", shell_complete=complete_folders),
)


def _refuse_one_line(context: click.Context, _option: click.Parameter, value: str | None) -> None:
    if value is not None:
        raise click.UsageError(
            f"{context.info_name} takes no --prompt, --prompts or --checkpoint; it needs a job file, which "
            "`janus-batch init` writes",
            context,
        )


needs_a_job_file = click.option(
    "--prompt", "--prompts", "--checkpoint", hidden=True, is_eager=True, expose_value=False, callback=_refuse_one_line
)
scheduled_at = click.option(
    "--scheduled-at", metavar="TIME", help="Fill in date fields from this time instead of the last scheduled time."
)

endpoint_url = click.option("--endpoint-url", metavar="URL", help="Address of an S3 store other than AWS.")
output = _group(click.argument("output", metavar="OUTPUT", shell_complete=complete_folders), endpoint_url)

ray_address = click.option(
    "--address", metavar="ADDR", help="Ray cluster to join: HOST:PORT or auto. Without it, Ray starts on this machine."
)
when_held = _group(
    click.option(
        "--wait-for-output", "when_held", flag_value="wait", help="Wait while another run is writing to the output."
    ),
    click.option(
        "--ignore-lease",
        "when_held",
        flag_value="ignore",
        help="Render alongside another run. Safe, but images are rendered twice.",
    ),
)


def _rejection_limit(_context: click.Context, _option: click.Parameter, value: str | None) -> RejectionLimit | None:
    from workflows.output.acceptance import read_rejection_limit

    try:
        return None if value is None else read_rejection_limit(value)
    except ValueError as error:
        raise click.BadParameter(f"{error}, got {one_line(value or '')}") from error


acceptance = _group(
    click.option(
        "--max-rejected",
        metavar="LIMIT",
        callback=_rejection_limit,
        help="Exit with 1 if more images than this are rejected: a number, or a percentage such as 5%.",
    ),
    click.option("--allow-empty", is_flag=True, help="Exit with 0 if the prompts have no rows."),
)

quiet = click.option("-q", "--quiet", "is_quiet", is_flag=True, help="Print the result, without progress and notes.")
as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")

submission = _group(
    click.option("--working-dir", metavar="DIR", help="Folder to upload, up to 100 MiB. Default: this checkout."),
    click.option(
        "--env",
        "variables",
        metavar="NAME",
        multiple=True,
        help="Send this environment variable, such as AWS_PROFILE. Anyone who can open the Ray dashboard can read it.",
    ),
    click.option("--runtime-env-json", metavar="JSON", default="{}", help="Ray runtime environment: pip, env_vars."),
    click.option("--metadata", metavar="KEY=VALUE", multiple=True, help="Shown with the job in the Ray dashboard."),
    click.option(
        "--entrypoint-num-cpus",
        metavar="N",
        type=click.FloatRange(min=0),
        default=0,
        help="CPUs to reserve for the driver.",
    ),
    click.option(
        "--entrypoint-num-gpus",
        metavar="N",
        type=click.FloatRange(min=0),
        default=0,
        help="GPUs to reserve for the driver.",
    ),
    click.option(
        "--entrypoint-memory",
        metavar="BYTES",
        type=click.IntRange(min=0),
        default=0,
        help="Memory to reserve for the driver.",
    ),
    click.option(
        "--entrypoint-resources", metavar="JSON", default="{}", help="More for the driver: '{\"head\": 0.01}'."
    ),
    click.option("--submission-id", metavar="ID", help="Name the submission. An id that exists is followed."),
)
