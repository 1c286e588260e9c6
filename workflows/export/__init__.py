"""An output as a dataset or as the folder a benchmark reads."""
