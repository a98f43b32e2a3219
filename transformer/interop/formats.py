"""Every model type that is read and written: its fields and its names of parameters."""

from transformer.interop import decoders, fields, names

FORMATS: dict[str, fields.Format] = fields.OLDER | decoders.FORMATS
NAMES: dict[str, names.Names] = names.OLDER | decoders.NAMES
