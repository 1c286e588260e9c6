"""From the name of a checkpoint to its tensors: where it is, what it is, whether it is whole."""
