"""Names of special tokens in texts, such as [MASK] and <extra_id_0>. Those that the model can fill are encoded as special
tokens. All other names are encoded as text, and counted."""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence

from transformer import families
from transformer.config import Config, DataInfo
from transformer.data.tokenizers.vocabulary import Vocabulary
from transformer.errors import UserError, counted

MASK = "<mask>"  # accepted with every vocabulary, besides the name of its own mask
FILLING: tuple[families.Output, ...] = ("filled", "text", "none")  # outputs that can fill gaps in an input


def with_codes(config: Config, data_info: DataInfo, vocabularies: Mapping[str, Vocabulary]) -> DataInfo:
    """`data_info` with the language codes that `config.search` names. UserError if the vocabulary does not have them."""
    sides = list(vocabularies.values())
    of_source, of_target = ("begin", "first") if data_info.code is None else ("code", "start")
    for setting, name, vocabulary in (("source_code", of_source, sides[0]), ("target_code", of_target, sides[-1])):
        if (code := getattr(config.search, setting)) is None:
            continue
        if (token := vocabulary.find(code)) is None:
            raise UserError(f"config.search.{setting} {code}: the vocabulary has no such entry; leave it out or name another")
        data_info = dataclasses.replace(data_info, **{name: token})
    return data_info


class SpecialNames:
    """The names of one vocabulary. `taken`: name -> token. Names are counted only with published vocabularies, because no user
    knows the names of a vocabulary that was trained here."""

    def __init__(self, config: Config, data_info: DataInfo, vocabulary: Vocabulary):
        self.vocabulary, self.taken, self.sentinels = vocabulary, dict[str, int](), dict[int, str]()
        if families.task_of(config).output in FILLING:
            if data_info.mask is not None:
                own = vocabulary.pieces([data_info.mask]) if data_info.mask < vocabulary.size else []
                self.taken = dict.fromkeys((MASK, *own), data_info.mask)
            self.sentinels = {data_info.target_size - 1 - k: f"<extra_id_{k}>" for k in range(data_info.sentinels)}
            self.taken |= {name: token for token, name in self.sentinels.items()}
        special = vocabulary.pieces(sorted(vocabulary.special)) if config.data.vocabulary == "imported" else []
        self._taken = _pattern(self.taken)
        self._others = _pattern(name for name in special if name not in self.taken)
        self.reset()

    def reset(self) -> None:
        """Sets the counts to 0."""
        self._count, self._first = 0, ""

    def count(self, texts: Iterable[str]) -> None:
        """Counts the names that are encoded as text."""
        if self._others is None:
            return
        for text in texts:
            if found := self._others.findall(text):
                self._count, self._first = self._count + len(found), self._first or found[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The token ids of each text. Counts names that are encoded as text."""
        self.count(texts)
        if self._taken is None:
            return self.vocabulary.encode_batch(texts)
        named = {n for n, text in enumerate(texts) if self._taken.search(text)}
        plain = iter(self.vocabulary.encode_batch([text for n, text in enumerate(texts) if n not in named]))
        return [self.vocabulary.encode_with(text, self.taken) if n in named else next(plain) for n, text in enumerate(texts)]

    def decode(self, ids: Sequence[int], source: Sequence[int], vocabulary: Vocabulary) -> str:
        """The text of an output, decoded with `vocabulary`; sentinels are shown if the source has any."""
        if not self.sentinels or not any(i in self.sentinels for i in source):
            return vocabulary.decode(ids)
        parts: list[str] = []
        run: list[int] = []
        for i in [*ids, None]:
            if i is not None and i not in self.sentinels:
                run.append(i)
                continue
            parts += [vocabulary.decode(run).strip(), *([] if i is None else [self.sentinels[i]])]
            run = []
        return " ".join(part for part in parts if part)

    @property
    def notices(self) -> list[str]:
        if not self._count:
            return []
        names = counted(self._count, "name")
        return [f"{names} of special tokens, the first of them {self._first}, read as text: this model cannot fill them"]


def _pattern(names: Iterable[str] | Mapping[str, int]) -> re.Pattern[str] | None:
    """A pattern for these names, in which longer names come before their prefixes."""
    ordered = sorted(filter(None, names), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, ordered))) if ordered else None
