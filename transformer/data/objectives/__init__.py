"""Objectives make the inputs and targets of a model from the token ids of an example; one class for each objective."""

from transformer.data.objectives.base import DECODER, ENCODER, PREFIXED, READER, TAGGER, Corpus, Objective, SequenceSpec
from transformer.data.objectives.denoising import Denoise, SpanCorruption
from transformer.data.objectives.labels import LABEL, SPAN, Answer, Classify, Tag
from transformer.data.objectives.language import CausalLM, EncodedPrefixLM, PrefixLM
from transformer.data.objectives.masked import RELATED, MaskedLM
from transformer.data.objectives.translate import DecoderOnlyTranslate, Translate

__all__ = [
    "DECODER",
    "ENCODER",
    "LABEL",
    "PREFIXED",
    "READER",
    "RELATED",
    "SPAN",
    "TAGGER",
    "Answer",
    "CausalLM",
    "Classify",
    "Corpus",
    "Denoise",
    "EncodedPrefixLM",
    "MaskedLM",
    "Objective",
    "PrefixLM",
    "SequenceSpec",
    "SpanCorruption",
    "Tag",
    "Translate",
    "DecoderOnlyTranslate",
]
