"""A vocabulary that was trained here as a `tokenizer.json`, which Transformers' general class reads: ids are the same.

A sentencepiece model keeps its own normalisation. There the tokenizers library (0.23) differs in one case, from T5's published
file, too: a mark that combines with a letter which is normalised away, such as one of full width, is lost.
"""

import json
from typing import Any

from transformer.config import DataInfo
from transformer.data.tokenizers import tokenizer_classes
from transformer.data.tokenizers.imported import BLANK
from transformer.data.tokenizers.vocabulary import SPECIAL, UNKNOWN, Bytes, Characters, SentencePiece

MASK = "<mask>"  # where no entry of the vocabulary is the mask
Around = tuple[list[int], list[int], list[int]]  # special tokens before a text, behind it, and between the two of a pair
_NORMAL, _USER_DEFINED = 1, 4  # types of pieces
_PLACES = 0xFFFF0  # private characters that no normalisation touches


def is_ours(vocabulary: SentencePiece) -> bool:
    """Whether it was trained here: its special entries are ours."""
    return tuple(vocabulary.pieces(range(len(SPECIAL)))) == SPECIAL


def write(vocabulary: Bytes | Characters | SentencePiece, data_info: DataInfo, around: Around, lowercase: bool = False) -> str:
    """The file's text. `lowercase`: texts are converted to lower case first."""
    from tokenizers import AddedToken, normalizers

    if isinstance(vocabulary, SentencePiece):
        made = _pieces(vocabulary)
    else:
        made = _characters(vocabulary) if isinstance(vocabulary, Characters) else _bytes()
    if lowercase:
        made.normalizer = normalizers.Sequence([normalizers.Lowercase(), *([made.normalizer] if made.normalizer else [])])
    extra = {} if data_info.mask is None else {data_info.mask: MASK}
    extra |= {data_info.target_size - 1 - k: f"<extra_id_{k}>" for k in range(data_info.sentinels)}
    # The library numbers what is added by itself, from the last entry on.
    in_order = sorted(extra) == list(range(vocabulary.size, vocabulary.size + len(extra)))
    more = [extra[number] for number in sorted(extra)] if in_order else []
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in (*SPECIAL, *more)])
    described = json.loads(made.to_str())
    if any(around):
        before, behind, between = ([SPECIAL[i] for i in ids] for ids in around)
        described["post_processor"] = tokenizer_classes.template(before, behind, between, _entries(), second_type=1)
    return json.dumps(described, indent=2, ensure_ascii=False)


def _entries() -> dict[str, int]:
    return {name: number for number, name in enumerate(SPECIAL)}


def _bytes() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = tokenizer_classes.byte_letters()
    made = Tokenizer(models.BPE(_entries() | {letters[b]: len(SPECIAL) + b for b in range(256)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    return made


def _characters(vocabulary: Characters) -> Any:
    from tokenizers import Tokenizer, decoders, models

    made = Tokenizer(models.BPE(_entries() | vocabulary.ids, [], unk_token=SPECIAL[UNKNOWN]))
    made.decoder = decoders.Fuse()
    return made


def _pieces(vocabulary: SentencePiece) -> Any:
    """Of sentencepiece's settings those that a vocabulary trained here has: tokenizers/training.py."""
    from sentencepiece import sentencepiece_model_pb2
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    described = sentencepiece_model_pb2.ModelProto.FromString(vocabulary.model)  # type: ignore[attr-defined]
    pieces = [(each.piece, each.score) for each in described.pieces]
    whole = sorted((each.piece for each in described.pieces if each.type == _USER_DEFINED), key=len, reverse=True)
    if described.trainer_spec.model_type == described.trainer_spec.BPE:
        ids = {piece: number for number, (piece, _) in enumerate(pieces)}
        normal = {each.piece: each.score for each in described.pieces if each.type == _NORMAL}
        parts = [(piece, piece[:k], piece[k:]) for piece in normal for k in range(1, len(piece))]
        merges = [(left, right) for _, left, right in sorted(parts, key=lambda each: (-normal[each[0]], ids[each[0]]))]
        merges = [(left, right) for left, right in merges if left in normal and right in normal]
        ready = any(len(piece) > 1 for piece in whole)  # without it the library merges what is no single character
        made = Tokenizer(models.BPE(ids, merges, unk_token=SPECIAL[UNKNOWN], fuse_unk=True, ignore_merges=ready))
    else:
        made = Tokenizer(models.Unigram(pieces, unk_id=UNKNOWN, byte_fallback=False))
    places = {piece: chr(_PLACES + number) for number, piece in enumerate(whole)}
    charsmap, single = described.normalizer_spec.precompiled_charsmap, described.normalizer_spec.remove_extra_whitespaces
    made.normalizer = normalizers.Sequence(
        [
            *(normalizers.Replace(piece, place) for piece, place in places.items()),  # these are not normalised
            *([normalizers.Precompiled(charsmap)] if charsmap else []),
            *(normalizers.Replace(place, piece) for piece, place in places.items()),
            *([normalizers.Replace(Regex(r"\A +| +\z"), ""), normalizers.Replace(Regex(" {2,}"), " ")] if single else []),
            normalizers.Prepend(BLANK),
            normalizers.Replace(" ", BLANK),
        ]
    )
    alone = [pre_tokenizers.Split(Regex("|".join(whole)), "isolated")] if whole else []
    made.pre_tokenizer = pre_tokenizers.Sequence([*alone, pre_tokenizers.Split(BLANK, "merged_with_next")])
    made.decoder = decoders.Sequence([decoders.Replace(BLANK, " "), decoders.Fuse(), decoders.Strip(content=" ", left=1)])
    return made
