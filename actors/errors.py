"""The kinds of error with a fate of their own; everything else is a bug and keeps its traceback."""


class InputError(ValueError):
    """Something a user wrote or pointed at is wrong: the rule, the value, what is allowed. Exit code 2."""


class JobFailure(RuntimeError):
    """The job cannot go on, though nothing was wrong with what the user wrote. Exit code 1."""


class EngineFailedError(RuntimeError):
    """An engine raised while it rendered. Whether a row is to blame is found out by rendering it alone."""


class CheckpointError(InputError):
    """A checkpoint that cannot be used: what it is, what was found, what is allowed."""


class NoSuchFolder(CheckpointError):
    """The name leads nowhere: no such folder, bucket, repository or revision."""


class CheckpointUnreachable(CheckpointError):
    """The store or the hub did not answer, or sent part of a file. A retry may help."""


class OtherWeightsError(CheckpointError):
    """The checkpoint holds other weights than those the recipe was made with."""
