"""Janus and Janus-Pro: image codes one after the other, then the VQ decoder."""
