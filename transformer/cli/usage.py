"""The text of `--help`: modes, flags by purpose, and sections of settings; `--help=SECTION` lists the settings of one."""

import dataclasses
import textwrap
from collections.abc import Iterator
from typing import Any

from transformer import registry, settings
from transformer.cli.flags import CHOICES, FLAGS, GROUP_OF, HELP, MODES, MODES_OF
from transformer.config import Config
from transformer.errors import UserError, nearest
from transformer.studies import study

WIDTH = 110  # characters of a line


def requested_section(arguments: list[str]) -> str | None:
    """The SECTION of `--help=SECTION` or `--help SECTION`, "" for `--help` alone, or None without a request for help."""
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        flag, _, section = argument.partition("=")
        if flag in HELP:
            return section or ("" if following.startswith("-") else following)
    return None


def usage(section: str, program: str) -> str:
    """The text of the help. UserError: there is no such section."""
    known = {"study": _study, "general": _general} | dict.fromkeys(sections(), _section)
    if section == "all":
        return "\n\n".join(["\n".join(_overview(program)), *("\n".join(make(name)) for name, make in known.items())])
    if not section:
        return "\n".join(_overview(program))
    name = section.removeprefix("config.")
    if name not in known:
        raise UserError(f"--help={section}: expected one of {', '.join([*known, 'all'])}{nearest(name, known)}")
    return "\n".join(known[name](name))


def sections() -> dict[str, Any]:
    """The sections of a configuration, by name."""
    config = Config()
    return {f.name: value for f in dataclasses.fields(config) if dataclasses.is_dataclass(value := getattr(config, f.name))}


def _overview(program: str) -> Iterator[str]:
    yield f"{program} [--mode=M] [--config=FILE] [--workdir=DIR] [--config.NAME=VALUE ...]"
    yield "\nmodes"
    for mode, meaning in MODES.items():
        yield _wrapped(f"  {mode:<10} ", meaning)
    for group in dict.fromkeys(GROUP_OF.values()):
        yield f"\nflags: {group}"
        for name in (name for name, each in GROUP_OF.items() if each == group):
            default = FLAGS[name].default
            shown = "" if default is None or default == [] else default
            modes = MODES_OF[name]
            which = "" if len(modes) > len(MODES) - 2 else f"{', '.join(modes)}: "
            choices = f" <{'|'.join(CHOICES[name])}>" if name in CHOICES and name != "mode" else ""
            meaning = FLAGS[name].help.partition(";\n")[0]  # absl adds that a flag may be repeated
            yield _wrapped(f"  --{name}={shown}  ", f"{which}{meaning}{choices}", "      ")
    yield "\nsettings, --config.NAME=VALUE; --help=SECTION lists those of a section, --help=all lists all"
    yield _wrapped("  general     ", "The family of the model: config.family.")
    for name, value in sections().items():
        yield _wrapped(f"  {name:<11} ", f"{_first_line(type(value))} ({sum(1 for _ in settings.fields(value))} settings)")
    yield _wrapped("  study       ", "The parts of a study, for --mode=ablate.")


def _study(name: str) -> Iterator[str]:
    yield "study: --config.NAME=VALUE with --mode=ablate; the settings of its runs are --config.base.NAME=VALUE"
    hints = settings.type_hints(study.Study)
    for field in dataclasses.fields(study.Study):
        if field.metadata:
            default = "" if field.default is dataclasses.MISSING else field.default
            yield _line(field.name, hints[field.name], field, default, "  ")


def _general(name: str) -> Iterator[str]:
    yield "general: --config.NAME=VALUE"
    config = Config()
    for name, kind, field, value in settings.fields(config):
        if "." not in name and not dataclasses.is_dataclass(value):
            yield _line(name, kind, field, value, "  ")


def _section(name: str) -> Iterator[str]:
    section = sections()[name]
    yield _wrapped(f"{name}: ", _first_line(type(section)))
    yield "set by --config.NAME=VALUE; defaults, which an experiment file may change:"
    yield from _settings(section, f"{name}.")


def _settings(config: Any, prefix: str = "", indent: str = "  ", inside: tuple[type, ...] = ()) -> Iterator[str]:
    """A line for each setting, and below a component those that it can be in its place, with their own settings. Components
    inside components of the same kind (`inside`) are not listed again, because the nesting has no end."""
    for name, kind, field, value in settings.fields(config, prefix):
        yield _line(name, kind, field, value, indent)
        others = kind.registry.values() if isinstance(value, registry.Component) and kind not in inside else ()
        for other in others:
            if other is not type(value):
                yield _wrapped(f"{indent}  {name}={other.name}: ", _first_line(other), f"{indent}      ")
                yield from _settings(other(), f"{name}.", f"{indent}    ", (*inside, kind))


def _line(name: str, kind: Any, field: dataclasses.Field[Any], value: Any, indent: str) -> str:
    meaning = f"{field.metadata['meaning']} ({settings.type_name(kind)})"
    return _wrapped(f"{indent}{name}={settings.text_of(value)}  ", meaning, f"{indent}      ")


def _wrapped(first: str, text: str, indent: str | None = None) -> str:
    """`first` and `text`, wrapped at `WIDTH` characters; further lines begin with `indent`."""
    lines = textwrap.TextWrapper(WIDTH, break_long_words=False, break_on_hyphens=False, initial_indent=first)
    lines.subsequent_indent = " " * len(first) if indent is None else indent
    return lines.fill(text)


def _first_line(described: type) -> str:
    return (described.__doc__ or "").strip().splitlines()[0]
