"""The job file: what a person writes, and what it resolves to."""
