"""Triton kernels for GPUs, each next to its torch reference. None splits a sum by how many rows share a launch."""
