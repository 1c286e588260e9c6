"""The command line: one command per verb, each a thin call of the module of its name. Loads neither torch nor ray."""

from __future__ import annotations

import sys

import click

from actors.errors import InputError, JobFailure
from janus_batch import INTERRUPTED, VERSION
from jobs.cli import checkpoints, completion, outputs, rendering
from jobs.terminal.exit_codes import INCOMPLETE, WRONG
from jobs.terminal.first_process import outlive_in_a_container
from jobs.terminal.last_word import all_is_said
from jobs.terminal.text import failure_text
from workflows.storage.errors import does_not_answer


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(VERSION, prog_name="janus-batch")
def cli() -> None:
    """Render images from prompts with Janus, Janus-Pro and JanusFlow, on one machine or a Ray cluster.

    \b
    Start with:
      janus-batch render --prompt "a red circle" --checkpoint janus-shapes --output out

    `janus-batch init` writes a job file. docs/job-file.md lists its keys.

    Exit codes: 0 all done, 1 the job failed or is incomplete, 2 the job file, command line or another input is wrong.
    """


COMMANDS = (
    *(rendering.render, rendering.caption, rendering.init, rendering.submit, rendering.plan, rendering.schedule),
    *(outputs.status, outputs.retry_rejected, outputs.verify, outputs.replay, outputs.report),
    *(outputs.score, outputs.export),
    checkpoints.doctor,
    completion.completion,
)
for command in COMMANDS:
    cli.add_command(command)


def main() -> None:
    """Run a verb. Whatever it raises becomes one clear line and the right exit code."""
    try:
        outlive_in_a_container()
        sys.exit(cli(prog_name="janus-batch", standalone_mode=False))
    except click.ClickException as error:
        error.show()
        sys.exit(WRONG)
    except (KeyboardInterrupt, click.Abort):
        click.echo(INTERRUPTED, err=True)
        sys.exit(INCOMPLETE)
    except (InputError, JobFailure) as error:
        click.echo(failure_text(error), err=True, nl=False)
        all_is_said()
        sys.exit(WRONG if isinstance(error, InputError) and not does_not_answer(error) else INCOMPLETE)
