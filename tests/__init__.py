"""Tests, in folders that mirror the three rooms; `servers/` starts the real S3 servers they talk to."""
