"""`janus-batch submit`: a job through the job server of a Ray cluster."""
