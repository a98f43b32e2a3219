"""Every model type that is read and written: its fields and its names of parameters."""

from transformer.interop import decoders, encoders, fields, names, seq2seq

FORMATS: dict[str, fields.Format] = fields.OLDER | seq2seq.FORMATS | encoders.FORMATS | decoders.FORMATS
NAMES: dict[str, names.Names] = names.OLDER | seq2seq.NAMES | encoders.NAMES | decoders.NAMES
