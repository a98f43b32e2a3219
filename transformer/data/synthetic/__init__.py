"""Synthetic tasks: generated at lengths that are settings, and stored as TFDS data sets that need no download."""
