"""What goes wrong with a checkpoint, each message one sentence for the person who named it."""

from __future__ import annotations

from actors.errors import InputError


class CheckpointError(InputError):
    """A checkpoint that cannot be used: what it is, what was found, what is allowed."""


class NoSuchFolder(CheckpointError):
    """The name leads nowhere: no such folder, bucket, repository or revision."""


class CheckpointUnreachable(CheckpointError):
    """The store or the hub did not answer, or not with the whole file: trying again later may help."""
