"""Synthetic tasks: made here, at lengths that are settings, and kept as TFDS data sets that need no download."""
