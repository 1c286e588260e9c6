"""Runnable examples. Run them from the project's root: `python -m examples.shapes.train_vq`."""
