"""Checking an output against its manifest, and repairing it."""
