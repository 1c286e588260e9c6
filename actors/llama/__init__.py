"""The decoder-only language model both families share: attention, matrices, number formats."""
