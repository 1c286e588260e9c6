"""`janus-batch completion`, and what a shell completes: names of checkpoints, folders and keys of a job file."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem, get_completion_class

VARIABLE = "_JANUS_BATCH_COMPLETE"  # click's name for the program `janus-batch`


@click.command(short_help="Print the script that completes commands in a shell.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> int:
    """Print the script that lets a shell complete commands, options, keys and folders.

    \b
    bash, in ~/.bashrc:                 eval "$(janus-batch completion bash)"
    zsh, in ~/.zshrc, after compinit:   eval "$(janus-batch completion zsh)"
    fish, in ~/.config/fish/config.fish:
      janus-batch completion fish | source
    """
    program = context.find_root()
    kind = get_completion_class(shell)
    assert kind is not None, "click has the three shells"
    click.echo(kind(program.command, {}, "janus-batch", VARIABLE).source())
    return 0


def complete_folders(_context: click.Context, _option: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Folders, by the shell itself."""
    return [CompletionItem(incomplete, type="dir")]


def complete_checkpoints(_context: click.Context, _option: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The checkpoints that come with the program; folders for anything else."""
    from actors.checkpoint.folder import BUNDLED

    names = [CompletionItem(name) for name in (*BUNDLED, "toy") if name.startswith(incomplete)]
    return names or [CompletionItem(incomplete, type="dir")]


def complete_keys(_context: click.Context, _option: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The keys of a job file, up to the value."""
    from jobs.job_file.sections.base import section_of
    from jobs.job_file.spec import JobSpec

    keys: list[str] = []
    for name, field in JobSpec.model_fields.items():
        section = section_of(field.annotation)
        keys += [f"{name}.{key}" for key in section.model_fields] if section else [name]
    return [CompletionItem(f"{key}=") for key in keys if key.startswith(incomplete)]
