"""What a job will cost: the estimate of `plan`, and the measurement of a machine."""
