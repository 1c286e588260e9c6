"""The kinds of error with a fate of their own; everything else is a bug and keeps its traceback."""


class InputError(ValueError):
    """Something a user wrote or pointed at is wrong: the rule, the value, what is allowed. Exit code 2."""


class JobFailure(RuntimeError):
    """The job cannot go on, though nothing was wrong with what the user wrote. Exit code 1."""


class EngineFailedError(RuntimeError):
    """An engine raised while it rendered. Whether a row is to blame is found out by rendering it alone."""
