"""The sections of a job file, each a pydantic model."""
