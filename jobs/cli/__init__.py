"""The command line: the options and the commands, in groups."""
