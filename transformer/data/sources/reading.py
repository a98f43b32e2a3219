"""Reads a user's files: finds them by the name in a setting, applies the slice in that name, and reports lines with errors."""

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

# A .gz whose content has more bytes than this, and more than TIMES its size, is not text, but designed to fill the memory.
GROWN, TIMES = 2**30, 100
_SLICE = re.compile(r"(.+)\[(?:(\d{1,3})%)?:(?:(\d{1,3})%)?\]")


def part(data: Data, split: SplitName) -> tuple[str, Callable[[int], slice]]:
    """The name in `data.train`, `.validation` or `.test` without its slice, and a function from a length n to that slice.

    As in TFDS: `input.txt[:90%]`, `input.txt[90%:]`, `input.txt[10%:20%]`. A bound is floor(n * percent / 100), so that
    adjacent slices neither overlap nor leave a gap.
    """
    name = getattr(data, split)
    if not name.endswith("]"):
        return name, lambda n: slice(0, n)
    match = _SLICE.fullmatch(name)
    low, high = (int(match[2] or 0), int(match[3] or 100)) if match else (0, 0)
    if match is None or not low < high <= 100:
        raise UserError(
            f"config.data.{split} {name}: a slice needs whole percents, the first smaller than the second, "
            "as in NAME[:90%], NAME[90%:] or NAME[10%:20%]"
        )
    return match[1], lambda n: slice(n * low // 100, n * high // 100)


def folder(data: Data) -> Path:
    """The folder of a user's files."""
    return Path(data.directory or ".")


def find(where: Path, names: Sequence[str], remedy: str) -> Path:
    """The first existing file with one of these names in the folder `where`, plain or .gz. UserError with `remedy` if none."""
    candidates = [name + end for name in names for end in ("", ".gz")]
    try:
        for name in candidates:
            if (where / name).is_file():
                return where / name
    except OSError as error:  # a name that is too long, or a folder without permission
        raise UserError(f"{where / names[0]}: cannot be read ({error.strerror}); set {remedy}") from error
    others = sorted(p.name for p in where.iterdir()) if where.is_dir() else []
    raise UserError(
        f"{where / names[0]}: there is no such file, nor {', '.join(candidates[1:])} beside it{nearest(names[0], others)}; "
        f"set {remedy}"
    )


def find_one(data: Data, split: SplitName, endings: Sequence[str]) -> tuple[Path, Callable[[int], slice]]:
    """The file of a split, whose name may be given without one of `endings`, and its slice."""
    name, cut = part(data, split)
    return find(folder(data), [name + end for end in ("", *endings)], f"config.data.directory or config.data.{split}"), cut


class _Expanded(io.RawIOBase):
    """The content of a .gz file. UserError if it is far too large for text."""

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
    """The lines of a file with their line ends; their concatenation is the file.

    Only newlines end a line: `str.splitlines` would also split at ten other characters, and text mode would change "\\r\\n".
    """
    lines = []
    try:
        with io.BufferedReader(_Expanded(path), 2**20) if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, 1):
                # utf-8-sig removes the byte order mark that some editors write at the start of a file
                lines.append(line.decode("utf-8" if number > 1 else "utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: line {len(lines) + 1} is not UTF-8 (byte {error.object[error.start]:#x}); convert the file, as with iconv"
        ) from error
    except (OSError, EOFError, zlib.error) as error:  # the last two are raised for a damaged .gz
        raise UserError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if not lines:
        raise UserError(f"{path}: the file is empty")
    return lines
