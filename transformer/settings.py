"""Settings in general: typed fields with limits, names nested by dots, overrides of text, files in and out.

The settings themselves are in `config.py`; nothing here depends on a particular one.
"""

import dataclasses
import functools
import inspect
import math
import os
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from transformer import registry
from transformer.errors import UserError, nearest, nearest_setting
from transformer.files import shipped
from transformer.registry import Component

C = TypeVar("C")
type_hints = functools.cache(typing.get_type_hints)  # read for each check of a configuration
# What a file with this function is, for a command that needs another kind of file.
FILES = {
    "get_config": "an experiment: add --arm or --grid to compare arms of it",
    "get_study": "a study: use --mode=ablate, without --arm and --grid",
}
MOST = 2**31 - 1  # maximum of an integer: the range of arrays, keys and counters


def setting(default: Any, meaning: str, **limits: Any) -> Any:
    """A dataclass field. Limits: `at_least`, `above`, `at_most`, `below`; `free=True`: may change in an existing workdir;
    `path=True`: a name, or names, in the file system."""
    return dataclasses.field(default=default, metadata={"meaning": meaning, **limits})


class Variations(tuple[tuple[str, tuple[tuple[str, str], ...]], ...]):
    """Named sets of settings, {name: {setting: value}}, hashable; values are texts, as on the command line.

    A component may be given as an object; its settings are then listed after it.
    """

    def __new__(cls, values: Any = ()) -> "Variations":
        if not isinstance(values, Mapping):
            values = dict(values)
        return super().__new__(cls, ((str(name), tuple(_texts(dict(each)))) for name, each in values.items()))

    def __reduce__(self) -> Any:
        files = [str(file) for each in self.classes("config").values() for file in registry.sources(each)]
        return _rebuild, (self.plain(), files)

    def classes(self, where: str) -> dict[tuple[str, str], type[Component]]:
        """The classes in files that values name, by (name, setting). UserError, beginning with `where`: a file is not
        loaded."""
        return {
            (name, setting): registry.find(Component, text, f"{where}.{name}.{setting}")
            for name, each in self
            for setting, text in each
            if ".py:" in text
        }

    def get(self, name: str) -> dict[str, str]:
        """The settings of that name. KeyError."""
        return dict(dict(self)[name])

    def plain(self) -> dict[str, dict[str, str]]:
        """Nested dictionaries."""
        return {name: dict(each) for name, each in self}


def _rebuild(values: dict[str, dict[str, str]], files: list[str]) -> Variations:
    """Unpickles `Variations`: a worker process loads the files that its parent was given."""
    for file in files:
        registry.load_file(file, f"a worker process: {file}")
    return Variations(values)


def _texts(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        yield name, text_of(value)
        if isinstance(value, Component):
            yield from ((below, text_of(each)) for below, _, _, each in fields(value, f"{name}."))


def text_of(value: Any) -> str:
    """A setting's value as text that `parse` reads; for a component, its name."""
    if isinstance(value, Component):
        return registry.reference(type(value))
    if isinstance(value, Variations):
        return ",".join(f"{name}.{setting}={text}" for name, each in value for setting, text in each)
    if isinstance(value, tuple | list):
        return ",".join(map(text_of, value))
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def fields(config: Any, prefix: str = "") -> Iterator[tuple[str, Any, dataclasses.Field[Any], Any]]:
    """Every setting as (dotted name, type, field, value); fields that are not made by `setting` are left out.

    A component is itself a setting, which names its class, and its own settings follow it.
    """
    hints = type_hints(type(config))
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if isinstance(value, Component) or (not dataclasses.is_dataclass(value) and "meaning" in field.metadata):
            yield prefix + field.name, hints[field.name], field, value
        if dataclasses.is_dataclass(value):
            yield from fields(value, f"{prefix}{field.name}.")


def plain(config: Any) -> dict[str, Any]:
    """Every setting's value by its dotted name; for a component, the name of its class."""
    return {name: registry.reference(type(v)) if isinstance(v, Component) else v for name, _, _, v in fields(config)}


def type_name(kind: Any) -> str:
    """A setting's type in words: `int`, `one of a, b`, `int or none`, `int,int`, `comma-separated str`."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments))
    if inspect.isclass(kind) and issubclass(kind, Component):
        return f"one of {', '.join(kind.registry)}, or FILE.py:Class"
    if kind is Variations:
        return "NAME.SETTING=VALUE"
    if origin in (types.UnionType, typing.Union):
        return " or ".join("none" if a is type(None) else type_name(a) for a in arguments)
    if origin is tuple:
        several = arguments[-1] is Ellipsis
        if several and typing.get_origin(arguments[0]) is Literal:
            return f"any of {', '.join(map(str, typing.get_args(arguments[0])))}, separated by commas"
        return "comma-separated " + type_name(arguments[0]) if several else ",".join(map(type_name, arguments))
    return kind.__name__


def parse(text: str, kind: Any) -> Any:
    """`text` as a value of type `kind`. ValueError: it is not of that type."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        if text.lower() == "none":
            return None
        return parse(text, next(a for a in arguments if a is not type(None)))
    if origin is Literal:
        if text not in arguments:
            raise ValueError(text)
        return text
    if origin is tuple:
        parts = [parse(p.strip(), arguments[0]) for p in text.strip("()").split(",") if p.strip()]
        if arguments[-1] is not Ellipsis and len(parts) != len(arguments):
            raise ValueError(text)
        return tuple(parts)
    if kind is bool:
        return {"true": True, "false": False, "1": True, "0": False, "yes": True, "no": False}[text.lower()]
    if kind is int:
        return int(text.replace("_", ""))
    return kind(text)


def override(config: C, overrides: Mapping[str, Any], load: bool = True) -> C:
    """`config` with settings replaced, e.g. {"model.num_heads": "4"}, in any order. Unknown name, ill-typed value: UserError.

    A component that is replaced, {"model.positions": "rotary"}, keeps the settings that both classes have in common; the others
    have their defaults. It may be an object. With `load` a name `FILE.py:Class` executes that file.
    """
    for name, text in _components_first(overrides):
        known = {known: kind for known, kind, _, _ in fields(config)}
        if (
            varied := next((n for n, kind in known.items() if kind is Variations and name.startswith(f"{n}.")), None)
        ) is not None:
            config = replace(config, varied, _varied(get(config, varied), name.removeprefix(f"{varied}."), text, name, load))
            continue
        if name not in known:
            raise UserError(f"--config.{name}: there is no such setting{_hint(name, known)}")
        kind = known[name]
        if inspect.isclass(kind) and issubclass(kind, Component):
            if load:
                _load(text, name)
            value: Any = text
            if not isinstance(text, Component):
                value = registry.carry_over(get(config, name), registry.find(kind, text, f"--config.{name}"))
        else:
            try:
                value = parse(text, kind)
            except (ValueError, KeyError):
                choices = _choices(kind)
                wrong = next((part.strip() for part in text.split(",") if part.strip() not in choices), text)
                hint = nearest(wrong, choices)
                raise UserError(f"--config.{name}={text}: expected {type_name(kind)}{hint}") from None
        config = replace(config, name, value)
    return config


def _choices(kind: Any) -> list[str]:
    """The values that a type allows, or that the parts of a comma-separated one may have; empty: any."""
    if typing.get_origin(kind) is Literal:
        return [*map(str, typing.get_args(kind))]
    return [each for part in typing.get_args(kind) for each in _choices(part)]


def assign(config: C, values: Mapping[str, Any]) -> C:
    """`config` with settings replaced by typed values, by dotted name, in any order; a component may be given by name."""
    for name, value in _components_first(values):
        kinds = {known: kind for known, kind, _, _ in fields(config)}
        if inspect.isclass(kind := kinds.get(name)) and issubclass(kind, Component) and isinstance(value, str):
            value = registry.carry_over(get(config, name), registry.find(kind, value, f"config.{name}"))
        config = replace(config, name, value)
    return config


def _load(text: Any, name: str) -> None:
    """Executes the file that the value of a setting names, if it names one."""
    if isinstance(text, str) and ".py:" in text:
        registry.load_file(text.rpartition(":")[0], f"--config.{name}={text}")


def _varied(old: Variations, path: str, text: str, name: str, load: bool) -> Variations:
    """`old` with NAME.SETTING, which is `path`, set to `text`. `name`: the whole name of the setting."""
    which, _, setting_name = path.partition(".")
    if not setting_name:
        raise UserError(f"--config.{name}: no setting is named; expected {name}.SETTING=VALUE")
    if load:
        _load(text, name)
    if isinstance(text, str) and ".py:" in text:
        text = registry.reference(registry.find(Component, text, f"--config.{name}"))
    values = old.plain()
    return Variations(values | {which: values.get(which, {}) | {setting_name: text}})


def _components_first(values: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Settings that name components come before the settings of these components: names with fewer dots first."""
    return sorted(values.items(), key=lambda item: item[0].count("."))


def _hint(name: str, known: Mapping[str, Any]) -> str:
    """A hint at what the user may have meant by an unknown name."""
    sections = {s for n in known for s in [n.rsplit(".", 1)[0]] if "." in n} - set(known)
    if name in sections:
        example = next(n for n in known if n.startswith(name + "."))
        return f"; it is a section, set one of its settings, such as --config.{example}"
    return nearest_setting(name, known)


def get(config: Any, name: str) -> Any:
    """The value of the setting with this dotted name."""
    for part in name.split("."):
        config = getattr(config, part)
    return config


def replace(config: Any, name: str, value: Any) -> Any:
    """`config` with the setting of this dotted name replaced."""
    head, _, rest = name.partition(".")
    return dataclasses.replace(config, **{head: replace(getattr(config, head), rest, value) if rest else value})


def from_file(
    path: str | Path,
    kind: type[C],
    function: str = "get_config",
    flag: str = "--config",
    overrides: Mapping[str, str] | None = None,
    look: Callable[[C], Any] | None = None,
) -> C:
    """The `kind` that the experiment file's `function` returns, with `overrides` applied. `flag` is the flag that named the
    file.

    If the file also has a function `fit_to_data(config, overrides, found)`, its result is used, where `found` is the result of
    `look` for these settings. It cannot change settings that `overrides` sets.
    """
    path, overrides = shipped(path), overrides or {}
    if not path.is_file():
        raise UserError(f"{flag}={path}: there is no such file{registry.hint_at_file(path)}")
    if path.suffix != ".py":
        raise UserError(
            f"{flag}={path}: it is not a Python file (its name must end in .py) with {function}(), which "
            f"returns a {kind.__name__}"
        )
    module = registry.load_file(path, f"{flag}={path}", changed=True)
    if not hasattr(module, function):
        meant = next((f"it is {what}" for other, what in FILES.items() if hasattr(module, other)), "write one")
        raise UserError(f"{flag}={path}: it has no {function}() that returns a {kind.__name__}; {meant}")

    def call(name: str, *arguments: Any) -> C:
        with registry.errors_in(path.resolve(), f"{flag}={path}", f"; {name}() must return a {kind.__name__}"):
            result = getattr(module, name)(*arguments)
        if not isinstance(result, kind):
            raise UserError(f"{flag}={path}: {name}() returned {type(result).__name__}, not a {kind.__name__}")
        return result

    config = expand_paths(override(call(function), overrides))
    if look is not None and hasattr(module, "fit_to_data"):
        config = override(call("fit_to_data", config, overrides, look(config)), overrides)
    return config


def to_dict(config: Any) -> dict[str, Any]:
    """Nested plain values for JSON; those of a component include the name of its class under "component", and the hashes of its
    files."""
    if isinstance(config, Variations):
        values: dict[str, Any] = config.plain()
        for (name, varied), cls in config.classes("config").items():
            values[name][varied] = _recorded(cls)
        return values
    if not dataclasses.is_dataclass(config):
        return config
    values = {field.name: to_dict(getattr(config, field.name)) for field in dataclasses.fields(config)}
    if isinstance(config, Component):
        values = _recorded(type(config)) | values
    return values


def _recorded(cls: type[Component]) -> dict[str, Any]:
    """A class's name, and the hashes of its files if it is not part of the library."""
    hashes = {file.name: digest for file, digest in registry.sources(cls).items()}
    return {"component": registry.reference(cls)} | ({"sources": hashes} if hashes else {})


def sources(config: Any) -> set[Path]:
    """The files outside the library that define components of these settings. UserError: two have the same name."""
    values = [(name, value) for name, _, _, value in fields(config)]
    classes = [type(value) for _, value in values if isinstance(value, Component)]
    classes += [cls for name, v in values if isinstance(v, Variations) for cls in v.classes(f"config.{name}").values()]
    files: dict[str, Path] = {}
    for file in (file for cls in classes for file in registry.sources(cls)):
        if files.setdefault(file.name, file) != file:
            raise UserError(f"{files[file.name]} and {file}: two files of components have the same name; rename one of them")
    return set(files.values())


def from_dict(values: Mapping[str, Any], kind: Any, where: str = "config.json", prefix: str = "", free: bool = False) -> Any:
    """The inverse of `to_dict`, with every name and type checked. UserError: a name or a type is wrong. `free`: for a component
    whose files may have changed."""
    if not isinstance(values, Mapping):
        raise UserError(f"{where}: {prefix or 'the file'} is not an object of settings")
    if issubclass(kind, Component):
        kind = _read_class(values, kind, where, prefix, free)
        values = {n: v for n, v in values.items() if n not in ("component", "sources")}
    hints, may_change = typing.get_type_hints(kind), {f.name for f in dataclasses.fields(kind) if f.metadata.get("free")}
    arguments = {}
    for name, value in values.items():
        if name not in hints:
            raise UserError(f"{where}: unknown setting {prefix}{name}{nearest(name, hints)}")
        if dataclasses.is_dataclass(hints[name]):
            arguments[name] = from_dict(value, hints[name], where, f"{prefix}{name}.", name in may_change)
        else:
            if hints[name] is Variations and isinstance(value, Mapping) and all(isinstance(v, Mapping) for v in value.values()):
                value = _read_variations(value, where, f"{prefix}{name}.")
            value = tuple(value) if isinstance(value, list) else value
            if not has_type(value, hints[name]):
                raise UserError(f"{where}: {prefix}{name} is {value!r}, expected {type_name(hints[name])}")
            arguments[name] = value
    missing = dataclasses.MISSING
    needed = [f.name for f in dataclasses.fields(kind) if f.default is missing and f.default_factory is missing]
    if missing := [prefix + name for name in needed if name not in arguments]:
        raise UserError(f"{where}: {', '.join(missing)} is missing; restore the file")
    return kind(**arguments)


def _read_class(
    values: Mapping[str, Any], kind: type[Component], where: str, prefix: str, free: bool = False
) -> type[Component]:
    """The class that `_recorded` wrote. UserError: its file is not loaded, or has changed and is not `free` to."""
    name = values.get("component")
    if not isinstance(name, str):
        raise UserError(f"{where}: {prefix}component is {name!r}, expected the name of a {kind.__name__}")
    cls = registry.find(kind, name, f"{where}: {prefix.removesuffix('.')}")
    if not free:
        registry.check_sources(cls, values.get("sources"), f"{where}: {prefix.removesuffix('.')}")
    return cls


def _read_variations(values: Mapping[str, Mapping[str, Any]], where: str, prefix: str) -> Variations:
    read: dict[str, dict[str, str]] = {}
    for name, each in values.items():
        read[name] = {}
        for varied, value in each.items():
            at = f"{prefix}{name}.{varied}"
            if isinstance(value, str) and ".py:" in value:
                value = {"component": value}
            if isinstance(value, Mapping):
                value = registry.reference(_read_class(value, Component, where, f"{at}."))
            if not isinstance(value, str):
                raise UserError(f"{where}: {at} is {value!r}, expected a text")
            read[name][varied] = value
    return Variations(read)


def has_type(value: Any, kind: Any) -> bool:
    """Whether `value` has a setting's type."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return any(has_type(value, a) for a in arguments)
    if origin is Literal:
        return isinstance(value, str) and value in arguments
    if inspect.isclass(kind) and issubclass(kind, Component):
        return isinstance(value, kind)
    if origin is tuple:
        fixed = arguments[-1] is not Ellipsis
        return (
            isinstance(value, tuple)
            and (not fixed or len(value) == len(arguments))
            and all(has_type(v, arguments[0]) for v in value)
        )
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return isinstance(value, kind) and not (kind is int and isinstance(value, bool))


def differences(old: Any, new: Any, free: bool = False) -> list[str]:
    """Settings that differ, as "name: old -> new"; those marked free (they change no result), and those of a component that
    is, only if `free`."""
    unchanged = {name for each in (old, new) for name, _, f, _ in fields(each) if f.metadata.get("free") and not free}
    inside = tuple(f"{name}." for name in unchanged)
    was, now, none = plain(old), plain(new), "(no such setting)"

    def shown(value: Any) -> Any:
        return text_of(value) if isinstance(value, Variations) else value

    return [
        f"{name}: {shown(was.get(name, none))} -> {shown(now.get(name, none))}"
        for name in dict.fromkeys([*was, *now])
        if was.get(name, none) != now.get(name, none) and name not in unchanged and not name.startswith(inside)
    ]


def expand_paths(config: C) -> C:
    """`config` with a ~ at the beginning of a path replaced by the user's home folder."""
    for name, _, field, value in fields(config):
        if field.metadata.get("path") and value:
            expanded = os.path.expanduser(value) if isinstance(value, str) else tuple(map(os.path.expanduser, value))
            config = replace(config, name, expanded) if expanded != value else config
    return config


def check(config: Any) -> None:
    """UserError: a section or a setting does not have its type, or a setting is outside its limits."""
    _check_sections(config, "")
    for name, kind, field, value in fields(config):
        if not has_type(value, kind):
            raise UserError(f"config.{name} is {value!r}: expected {type_name(kind)}")
        if isinstance(value, Variations):
            value.classes(f"config.{name}")
        if value is not None:
            _check_limits(name, field.metadata, value)


def _check_sections(config: Any, prefix: str) -> None:
    hints = type_hints(type(config))
    for field in dataclasses.fields(config):
        kind, value = hints[field.name], getattr(config, field.name)
        if inspect.isclass(kind) and issubclass(kind, Component) and isinstance(value, kind):
            registry.check_class(type(value), f"config.{prefix}{field.name}")
            _check_sections(value, f"{prefix}{field.name}.")
        elif dataclasses.is_dataclass(kind):
            if type(value) is not kind:
                raise UserError(f"config.{prefix}{field.name} is {value!r}: expected a {kind.__name__}")  # type: ignore[union-attr]
            _check_sections(value, f"{prefix}{field.name}.")


def _check_limits(name: str, limits: Mapping[str, Any], value: Any) -> None:
    if isinstance(value, int) and value > MOST:
        raise UserError(f"config.{name} is {value}: must be at most {MOST}")
    tests = {
        "at_least": lambda v, x: v >= x,
        "above": lambda v, x: v > x,
        "at_most": lambda v, x: v <= x,
        "below": lambda v, x: v < x,
    }
    for word, test in tests.items():
        if word in limits and not test(value, limits[word]):
            raise UserError(f"config.{name} is {value}: must be {word.replace('_', ' ')} {limits[word]}")
