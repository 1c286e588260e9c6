"""The exit codes of every verb."""

DONE = 0
INCOMPLETE = 1  # the job failed or images are missing: the same command may succeed later
WRONG = 2  # the job file or the command line is wrong: the same command fails again
EXIT_CODES = (DONE, INCOMPLETE, WRONG)
