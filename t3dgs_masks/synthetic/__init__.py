"""Procedural scenes: appearance, 2D clips for training a small SAM2, and a posed 3D capture."""
