"""Which rows of the prompt files are rendered: those that meet a condition, without duplicates, a sample, the first."""
