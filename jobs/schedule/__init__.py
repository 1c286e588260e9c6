"""`janus-batch schedule`: run jobs by the clock."""
