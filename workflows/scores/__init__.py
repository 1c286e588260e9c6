"""Scores of the images of an output: one table per scorer and part of the manifest."""
