"""A world of colored shapes, its judge, and the scripts that train the two bundled checkpoints on it."""
