"""From the name of a checkpoint to its tensors: find it, identify it, check it, read it."""
