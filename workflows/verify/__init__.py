"""Checks of an output against its manifest, repairs, and replay."""
