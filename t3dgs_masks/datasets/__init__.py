"""Datasets of splat trainers: opened as frames, given masks, and taken back to what they were."""
