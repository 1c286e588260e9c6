"""Storage behind fsspec: files, their errors, retries, damaged files, and the lease on an output."""
