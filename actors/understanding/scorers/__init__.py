"""Scorers of finished images: similarity of image and text, a linear head over it, a judge's answer, a user's code."""
