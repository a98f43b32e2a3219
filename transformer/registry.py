"""Components: frozen dataclasses that a setting can name, such as an attention, a position encoding, or a mask.

A kind of component is a direct subclass of `Component` (`Attention`, `Positions`, ..). Its classes are named either by the name
they register (`class Rotary(Positions, name="rotary")`) or as `FILE.py:Class`, a class in a file of the user's. Their fields
are settings like any other. Nothing here knows one of them.

A file is executed only by `load_file`, which is called for files that the command line names. An experiment file is executed
again if its text has changed, other files only once.
"""

import contextlib
import dataclasses
import hashlib
import importlib.util
import inspect
import re
import sys
import traceback
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

from transformer.errors import UserError, nearest
from transformer.files import EXPERIMENTS, shipped, shipped_name

LIBRARY = Path(__file__).resolve().parent
_FILES: dict[Path, types.ModuleType] = {}
_PREFIX = "variant_"  # of the names of modules that `load_file` makes


class Component:
    """Base of every component. Subclasses are frozen dataclasses with keyword-only fields made by `settings.setting`."""

    registry: ClassVar[dict[str, type["Component"]]]
    name: ClassVar[str | None] = None  # its name on the command line; None: only FILE.py:Class
    kind: ClassVar[type["Component"]]

    def __init_subclass__(cls, name: str | None = None, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if Component in cls.__bases__:
            cls.registry, cls.kind = {}, cls
        cls.name = name
        if name is not None:
            cls.registry[name] = cls

    def __reduce__(self) -> Any:
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]
        return _rebuild, (type(self).kind, reference(type(self)), str(_source(type(self)) or ""), values)


def _rebuild(kind: type[Component], name: str, file: str, values: dict[str, Any]) -> Component:
    """Unpickles a component: a worker process loads the file that its parent was given."""
    if file:
        load_file(file, f"a worker process: {file}")
        name = f"{file}:{name.rpartition(':')[2]}"
    return find(kind, name, "a worker process")(**values)


def restated(cls: type, statement: str, *methods: str) -> bool:
    """Whether `statement`, which is about `methods`, is defined in the same class as they or in a subclass. If a subclass
    replaces a method but not the statement, the statement does not apply to it.
    """

    def age(name: str) -> int:
        return next(number for number, each in enumerate(cls.__mro__) if name in each.__dict__)

    return all(age(statement) <= age(each) for each in methods)


def reference(cls: type[Component]) -> str:
    """The name of a class: its registered name, or `FILE.py:Class`, with the file relative to the current folder if it is in
    that folder, or its shipped name. UserError: it has neither a name nor a file, such as a class of a notebook.
    """
    if cls.name is not None and cls.registry.get(cls.name) is cls:
        return cls.name
    file = _source(cls)
    if file is None:
        raise UserError(
            f"{cls.kind.__name__} {cls.__name__}: this class is in no file, so no run can record it; write it to a file, and "
            f"import it from there or name it FILE.py:{cls.__name__}"
        )
    return f"{short_name(file)}:{cls.__name__}"


def short_name(file: Path) -> str:
    """A file as a command names it: relative to the current folder if it is in that folder, or by its shipped name."""
    return str(file.relative_to(Path.cwd())) if Path.cwd() in file.parents else shipped_name(file) or str(file)


def _source(cls: type) -> Path | None:
    """The file of a class outside the library; None for the library's own."""
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    path = Path(file).resolve() if file else None
    return None if path is None or LIBRARY in path.parents else path


def sources(cls: type[Component]) -> dict[Path, str]:
    """The files outside the library that define a class and its bases, each with its SHA-256."""
    files = (_source(each) for each in cls.__mro__ if issubclass(each, Component))
    return {file: hashlib.sha256(file.read_bytes()).hexdigest() for file in dict.fromkeys(files) if file}


def check_sources(cls: type[Component], recorded: Any, where: str) -> None:
    """UserError, beginning with `where`, if a class's files are not the ones whose hashes were recorded, by file name."""
    found = {file.name: digest for file, digest in sources(cls).items()}
    if changed := [name for name in found if not isinstance(recorded, dict) or recorded.get(name) != found[name]]:
        raise UserError(
            f"{where}: {changed[0]} has changed since it was recorded; restore it, or name the copy that the workdir keeps, "
            f"--variants=WORKDIR/variants/{changed[0]}"
        )


def find(kind: type[Component], name: str, where: str) -> type[Component]:
    """The class of a kind that `name` names. A file must have been loaded by `load_file`. UserError begins with `where`."""
    if ".py:" not in name:
        if name not in kind.registry:
            known = ", ".join(kind.registry)
            raise UserError(
                f"{where}: there is no {kind.__name__} {name}; choose {known}, or FILE.py:Class{nearest(name, kind.registry)}"
            )
        return kind.registry[name]
    file, _, class_name = name.rpartition(":")
    path = shipped(file).resolve()
    alike = [module for known, module in _FILES.items() if known.name == path.name]  # loaded from another folder
    module = _FILES.get(path) or next(iter(alike), None) or _imported(path)
    if module is None:
        raise UserError(f"{where}: {name} is code from a file; pass --variants={file} to allow it to run")
    cls = getattr(module, class_name, None)
    classes = [
        n for n, c in vars(module).items() if inspect.isclass(c) and issubclass(c, kind) and c.__module__ == module.__name__
    ]
    if not (inspect.isclass(cls) and issubclass(cls, kind)):
        has = f"it has {', '.join(classes)}" if classes else f"it has no subclass of {kind.__name__}"
        raise UserError(f"{where}: {file} has no class {class_name} that inherits from {kind.__name__}; {has}")
    check_class(cls, where)
    return cls


def load_file(path: str | Path, where: str, changed: bool = False) -> types.ModuleType:
    """Executes a Python file once, and remembers it; with `changed`, again if its text has changed since. UserError, beginning
    with `where`, if it is missing or fails."""
    file = shipped(path).resolve()
    if (known := _FILES.get(file) or _imported(file)) is not None and not (changed and known.__name__.startswith(_PREFIX)):
        _FILES[file] = known
        return known
    if not file.is_file() or file.suffix != ".py":
        raise UserError(f"{where}: there is no Python file {path}{hint_at_file(file)}")
    text = file.read_bytes()
    name = f"{_PREFIX}{file.stem}_{hashlib.sha256(str(file).encode() + text).hexdigest()[:8]}"
    if known is not None and known.__name__ == name:
        return known
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up while the file is executed
    try:
        with errors_in(file, where):
            # Not the loader, whose cache of compiled files misses a change within a second.
            exec(compile(text, file, "exec"), vars(module))  # noqa: S102
    except BaseException:
        del sys.modules[name]
        raise
    _FILES[file] = module
    return module


def hint_at_file(path: Path) -> str:
    """A hint "; did you mean 'x'?" at a Python file for a missing `path`: shipped ones of this name, else the one in the same
    folder whose name is closest."""
    same = sorted(str(each.relative_to(EXPERIMENTS.parent)) for each in EXPERIMENTS.rglob("*.py") if each.stem == path.stem)
    if same:
        return f"; did you mean {' or '.join(map(repr, same[:3]))}?"
    folder = shipped(path.parent)
    return nearest(path.name, sorted(each.name for each in folder.glob("*.py")) if folder.is_dir() else [])


@contextlib.contextmanager
def errors_in(file: Path, where: str, remedy: str = "") -> Iterator[None]:
    """Turns an error in the code of a user's file into a UserError that begins with `where` and names the line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == file]
        line = f" in line {lines[-1]}" if lines else ""  # empty: Python itself names the line of a syntax error
        raise UserError(f"{where}: {type(error).__name__}{line}: {error}{remedy}") from error


def place_in_files(error: BaseException) -> str | None:
    """FILE:LINE of the last line of a user's file, loaded by `load_file`, that led to an error; None: there is none."""
    frames = [(Path(frame.filename), frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    return next((f"{short_name(file)}:{line}" for file, line in reversed(frames) if file in _FILES), None)


def own_files() -> list[str]:
    """The loaded files, other than the package's, that define a component, as a command names them."""

    def defines(module: types.ModuleType) -> bool:
        own = (each for each in vars(module).values() if inspect.isclass(each) and each.__module__ == module.__name__)
        return any(issubclass(each, Component) for each in own)

    return [short_name(file) for file, module in _FILES.items() if EXPERIMENTS not in file.parents and defines(module)]


def forget(path: Path) -> None:
    """Undoes `load_file`, so that the file may be executed again."""
    if (module := _FILES.pop(path.resolve(), None)) is not None:
        sys.modules.pop(module.__name__, None)


def _imported(file: Path) -> types.ModuleType | None:
    """The module that Python itself has made from this file, so that its classes are not created twice."""
    for name, module in list(sys.modules.items()):
        path = None if name.startswith(_PREFIX) else getattr(module, "__file__", None)
        if path and path.endswith(file.name) and Path(path).resolve() == file:
            return module
    return None


def check_class(cls: type[Component], where: str) -> None:
    """UserError if a class is not a frozen dataclass, is in no file, has a field that cannot be hashed, or a hook that is
    misspelt or has other arguments."""
    kind = cls.kind
    reference(cls)
    hooks = own_hooks(kind)
    for each in cls.__mro__:
        if not issubclass(each, Component) or _source(each) is None:
            continue
        parameters = vars(each).get("__dataclass_params__")
        if parameters is None and vars(each).get("__annotations__"):
            raise UserError(
                f"{where}: {each.__name__} has fields and no @dataclasses.dataclass(frozen=True, kw_only=True) above it"
            )
        if parameters is not None and not parameters.frozen:
            raise UserError(
                f"{where}: {each.__name__} is a dataclass that is not frozen; write @dataclasses.dataclass(frozen=True)"
            )
        for name, function in own_hooks(each).items():
            if name in hooks:
                wanted, found = (list(inspect.signature(f).parameters) for f in (hooks[name], function))
                if [*map(_without_shape, wanted)] != [*map(_without_shape, found)]:
                    raise UserError(
                        f"{where}: {each.__name__}.{name} has the arguments ({', '.join(found)}); those of "
                        f"{kind.__name__}.{name} are ({', '.join(wanted)})"
                    )
            elif not hasattr(kind, name) and (hint := nearest(name, hooks)):
                raise UserError(
                    f"{where}: {each.__name__}.{name} is not a hook of {kind.__name__}{hint}; begin the name of a helper with _"
                )
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        if type(field.default).__hash__ is None or field.default_factory is not dataclasses.MISSING:
            raise UserError(f"{where}: {cls.__name__}.{field.name} cannot be hashed; use a tuple or a frozen dataclass")


def own_hooks(cls: type) -> dict[str, Callable[..., Any]]:
    """The hooks and other public methods in the body of a class, by name; `__call__` is a hook of norms."""
    return {n: f for n, f in vars(cls).items() if inspect.isfunction(f) and (n == "__call__" or not n.startswith("_"))}


def _without_shape(name: str) -> str:
    """`logits` for `logits_BxHxTxS`: a variant does not have to repeat shapes in its names."""
    return re.sub(r"_[A-Z0-9]+(x[A-Z0-9]+)*$", "", name)


def carry_over(old: Component | None, cls: type[Component]) -> Component:
    """An object of `cls` with the settings of `old` that both inherit from a common base class; the others have their
    defaults."""
    if old is None:
        return cls()
    if type(old) is cls:
        return old
    common = [each for each in cls.__mro__ if each in type(old).__mro__ and dataclasses.is_dataclass(each)]
    names = {field.name for each in common for field in dataclasses.fields(each)}
    return cls(**{name: getattr(old, name) for name in names})
