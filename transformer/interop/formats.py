"""Every model type that is read and written: its fields and its names of parameters."""

from transformer.interop import decoders, encoders, fields, names

FORMATS: dict[str, fields.Format] = fields.OLDER | encoders.FORMATS | decoders.FORMATS
NAMES: dict[str, names.Names] = names.OLDER | encoders.NAMES | decoders.NAMES
