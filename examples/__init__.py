"""Runnable examples; run them from the project's root, as in `python -m examples.shapes.train_vq`."""
