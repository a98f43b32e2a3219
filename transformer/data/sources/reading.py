"""Files of a user: found by the name in a setting, cut by the slice in that name, read with errors that name the line."""

import gzip
import io
import re
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformer.config import Data
from transformer.data.sources.base import SplitName
from transformer.errors import UserError, nearest

# A .gz above so many bytes that is above so many times its size is no text, but made to fill a memory.
GROWN, TIMES = 2**30, 100
_SLICE = re.compile(r"(.+)\[(?:(\d{1,3})%)?:(?:(\d{1,3})%)?\]")


def part(data: Data, split: SplitName) -> tuple[str, Callable[[int], slice]]:
    """The name in `data.train`, `.validation` or `.test` without its slice, and the slice of n things that it means.

    As in TFDS `input.txt[:90%]`, `input.txt[90%:]`, `input.txt[10%:20%]`: percent, cut at floor(n * percent / 100), so that
    parts that meet neither overlap nor leave a gap.
    """
    name = getattr(data, split)
    if not name.endswith("]"):
        return name, lambda n: slice(0, n)
    match = _SLICE.fullmatch(name)
    low, high = (int(match[2] or 0), int(match[3] or 100)) if match else (0, 0)
    if match is None or not low < high <= 100:
        raise UserError(
            f"config.data.{split} {name}: the slice wants whole percents, the first smaller, "
            "as in NAME[:90%], NAME[90%:] or NAME[10%:20%]"
        )
    return match[1], lambda n: slice(n * low // 100, n * high // 100)


def folder(data: Data) -> Path:
    """Where a user's files are."""
    return Path(data.directory or ".")


def find(where: Path, names: Sequence[str], remedy: str) -> Path:
    """The first file there is of those names in the folder `where`, each plain or with .gz. UserError, with `remedy`."""
    candidates = [name + end for name in names for end in ("", ".gz")]
    try:
        for name in candidates:
            if (where / name).is_file():
                return where / name
    except OSError as error:  # a name that is too long; a folder that may not be entered
        raise UserError(f"{where / names[0]}: cannot be read ({error.strerror}); set {remedy}") from error
    others = sorted(p.name for p in where.iterdir()) if where.is_dir() else []
    raise UserError(
        f"{where / names[0]}: there is no such file, nor {', '.join(candidates[1:])} beside it{nearest(names[0], others)}; "
        f"set {remedy}"
    )


def find_one(data: Data, split: SplitName, endings: Sequence[str]) -> tuple[Path, Callable[[int], slice]]:
    """The file that a split is, whose name may be given without one of `endings`, and its slice."""
    name, cut = part(data, split)
    return find(folder(data), [name + end for end in ("", *endings)], f"config.data.directory or config.data.{split}"), cut


class _Expanded(io.RawIOBase):
    """What is in a .gz. UserError: it grows as no text does."""

    def __init__(self, path: Path):
        self.path, self.size, self.grown = path, path.stat().st_size, 0
        self.file = gzip.open(path)  # noqa: SIM115  (closed by `close`)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self.file.read(len(buffer))
        self.grown += len(data)
        if self.grown > GROWN and self.grown > TIMES * self.size:
            raise UserError(
                f"{self.path}: more than {TIMES} times as large as the .gz, which no text should be; if it is "
                "text, decompress it yourself"
            )
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self.file.close()
        super().close()


def read_lines(path: Path) -> list[str]:
    """The lines of a file with what ends them; their concatenation is the file.

    Only newlines end a line: `str.splitlines` would split at ten other characters, text mode would change "\\r\\n".
    """
    lines = []
    try:
        with io.BufferedReader(_Expanded(path), 2**20) if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, 1):
                # utf-8-sig drops the byte order mark that some editors put at a file's start
                lines.append(line.decode("utf-8" if number > 1 else "utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: line {len(lines) + 1} is not UTF-8 (byte {error.object[error.start]:#x}); convert the file, as with iconv"
        ) from error
    except (OSError, EOFError, zlib.error) as error:  # the last two: a damaged .gz
        raise UserError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if not lines:
        raise UserError(f"{path}: the file is empty")
    return lines
