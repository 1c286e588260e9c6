"""The world of coloured shapes, its judge, and the programs that train the two bundled checkpoints on it."""
