"""What a person submits: the job file, the command line and one entry point per verb."""
