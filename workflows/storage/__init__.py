"""Storage behind fsspec: files, errors, retries, and the lease on an output."""
