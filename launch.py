"""Command line: flags in, one call out. `python launch.py --help` lists every flag and every setting."""

from transformer.runtime.memory import keep_freed_memory

if __name__ == "__main__":
    keep_freed_memory()  # before the imports below, which start threads

import dataclasses
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from absl import app, flags, logging

from transformer import effects, registry, settings, streams
from transformer.config import Config
from transformer.data import fitting
from transformer.errors import BUG, UserError, nearest, nearest_setting
from transformer.studies import study
from transformer.validation import validate

MODES = {
    "train": "trains, or resumes; then scores the test split and draws pictures",
    "evaluate": "scores a split: table to stdout, all of it to WORKDIR/evaluation/<split>.json",
    "translate": "a line out for a line in, in order",
    "predict": "labels, tags, answers, filled masks, vectors: a line out for a line in, in order",
    "generate": "text that continues a prompt, written as it is drawn",
    "attend": "attention maps of a sentence, PNG files",
    "align": "number_words: how well attention agrees with the known alignment of words",
    "import": "makes a workdir of a folder --source of Hugging Face Transformers",
    "export": "makes such a folder, --output, of a workdir",
    "describe": "parameters, FLOPs and bytes of a configuration; runs nothing",
    "check": "whether the variant of a configuration is right: a table of properties with measured errors, on a small model",
    "ablate": "trains the arms of a study with several seeds, or resumes it; results.csv and a report",
    "report": "writes the report of a study again, from WORKDIR/results.csv alone",
}
STUDIES = ("ablate", "report")
DEFAULT = "number_words.py"  # of experiments/
FLAGS = flags.FLAGS
MODES_OF: dict[str, tuple[str, ...]] = {}  # flag -> the modes that use it
CHOICES: dict[str, tuple[str, ...]] = {}  # flag -> its values, where these are few
PATHS: list[str] = []


def _flag(
    define: Callable[..., Any],
    name: str,
    meaning: str,
    modes: str = " ".join(MODES),
    default: Any = None,
    path: bool = False,
    choices: tuple[str, ...] = (),
    **limits: Any,
) -> None:
    """A flag, the modes that use it (with others it is an error), and what it may be."""
    MODES_OF[name] = tuple(modes.split())
    CHOICES.update({name: choices} if choices else {})
    PATHS.extend([name] if path else [])
    define(name, default, meaning, **limits)


_text, _number = flags.DEFINE_string, flags.DEFINE_integer
_trained = "evaluate translate predict generate attend align export"
_flag(_text, "mode", "what to do", default="train", choices=tuple(MODES))
_flag(
    _text,
    "config",
    f"experiment file; default: that of an existing --workdir, else experiments/{DEFAULT}. ablate, report: file of a study",
    f"train describe check ablate report {_trained}",
    path=True,
)
_flag(_text, "workdir", "folder of the run; default runs/<name of the experiment file>", path=True)
_flag(
    flags.DEFINE_list,
    "variants",
    "Python files that may run, whose classes a workdir's settings name; those of --config and of settings may",
    default=[],
)
_flag(_text, "split", "which split", "evaluate", "test", choices=("train", "validation", "test"))
_flag(_text, "input", "file to read; default stdin", "translate predict", path=True)
_flag(
    _text,
    "output",
    "file to write, default stdout; attend, export: folder; attend: default WORKDIR/pictures/<sentence>",
    "translate predict generate attend export",
    path=True,
)
_flag(_text, "prompt", "the beginning; default all of stdin", "generate")
_flag(_number, "num_samples", "how many continuations", "generate", 1, lower_bound=1)
_flag(
    _number,
    "seed",
    "of what is drawn; that of training is --config.train.seed",
    "generate",
    0,
    lower_bound=0,
    upper_bound=settings.MOST,
)
_flag(_text, "source", "the sentence (attend), or the folder (import)", "attend import")
_flag(_text, "target", "its translation; default what the model says", "attend")
_flag(_text, "profile", "a trace of updates FIRST:LAST, as 100:105, into WORKDIR/profile; slows those down", "train")
_flag(
    flags.DEFINE_multi_string,
    "arm",
    'an arm of a study without a file of its own, "8 heads: model.num_heads=8"; again for each; --config is any experiment',
    "ablate report",
    default=[],
)
_flag(
    flags.DEFINE_multi_string,
    "grid",
    "arms of all combinations, model.num_heads=1,2,4; again for each setting; --config is any experiment",
    "ablate report",
    default=[],
)
_flag(
    _text,
    "dry_run",
    "only says what would be trained, what it costs and what it can find; measure: also how long it takes, from a few updates",
    "ablate",
    choices=("plan", "measure"),
)
_flag(
    _number, "workers", "how many runs at a time; default 1, with --ray as many as there is room for", "ablate", lower_bound=1
)
_flag(
    _number,
    "vmap_seeds",
    "so many seeds of an arm are one run of one program (vmap); results as alone, to rounding",
    "ablate",
    1,
    lower_bound=1,
)
_flag(
    _text,
    "ray",
    "on the Ray cluster at HOST:PORT, or auto; a GPU for each run if it has some, else a CPU; all nodes see --workdir",
    "ablate",
)
_flag(_number, "devices", "bytes of each of so many devices, divided as config.parallel says", "describe", lower_bound=1)
_flag(flags.DEFINE_float, "memory_gib", "GiB of a device, with --devices: does it fit?", "describe", lower_bound=0)
_several = "train evaluate"  # what several processes can do as one
_flag(_text, "coordinator", "by several processes: HOST:PORT of the first; a cluster may know", _several)
_flag(_number, "num_processes", "how many processes; with --coordinator", _several, lower_bound=1)
_flag(_number, "process_id", "which of them this one is, from 0; with --coordinator", _several, lower_bound=0)
_flag(
    _text,
    "log_level",
    "least of what libraries log to stderr",
    default="warning",
    choices=("debug", "info", "warning", "error"),
)


def main(overrides: Mapping[str, str]) -> None:
    logging.set_verbosity(FLAGS.log_level)
    mode = FLAGS.mode
    for file in FLAGS.variants:
        registry.load_file(file, "--variants")
    if "://" in str(FLAGS.workdir):
        raise UserError(
            f"--workdir={FLAGS.workdir}: a workdir needs a file system, it is locked; mount the bucket, and name that"
        )
    workdir, notices = Path(FLAGS.workdir or Path("runs") / _name()), []
    if mode in STUDIES:
        if FLAGS.config is None:
            raise UserError(
                f"--mode={mode} needs --config=FILE of a study, as in experiments/ablations, or --arm and any experiment"
            )
        if FLAGS.arm or FLAGS.grid:
            config: Any = study.from_flags(FLAGS.config, overrides, FLAGS.arm, FLAGS.grid, fitting.read)
        else:
            config = study.read(FLAGS.config, overrides, fitting.read)
    elif mode in ("train", "describe", "check"):
        config, notices = _config(workdir, overrides)
        validate(config)
    else:
        config = None
        if FLAGS.config is not None:
            from transformer.runtime.workdir import with_file

            overrides = with_file(workdir, FLAGS.config, fitting.read(FLAGS.config, overrides), overrides)
    from transformer import modes  # here, so that --help and a mistyped name need not wait for JAX

    modes.run(mode, config, workdir, overrides, FLAGS, notices)
    sys.stdout.flush()  # here, where a closed pipe is caught


def _name() -> str:
    """Of the workdir, where none is named."""
    return Path(FLAGS.source if FLAGS.mode == "import" and FLAGS.source else FLAGS.config or DEFAULT).stem


def _config(workdir: Path, overrides: Mapping[str, str]) -> tuple[Config, list[str]]:
    """The settings of the experiment file, or, if none is named, of the run in --workdir; overrides on top; and notices."""
    stored = FLAGS.workdir and FLAGS.config is None
    if stored and (FLAGS.mode in ("describe", "check") or (workdir / "config.json").is_file()):
        from transformer.runtime.workdir import open_existing

        made = open_existing(workdir).config()
        return effects.settle(settings.override(made, overrides), overrides, lambda: made)
    return fitting.settle(FLAGS.config or Path(__file__).parent / "experiments" / DEFAULT, overrides)


def parse(arguments: list[str]) -> dict[str, str]:
    """Settings, `--config.a.b=value`, by name; the other arguments are parsed into FLAGS."""
    if strange := [a for a in arguments if not a.isascii() and a.encode(errors="replace").decode() != a]:
        raise UserError(
            f"{strange[0]!a}: the argument is not UTF-8; set the terminal's encoding to it, or put the text into a file"
        )
    try:
        arguments = [arguments[0], *FLAGS.read_flags_from_files(arguments[1:])]  # --flagfile=FILE
        given = [a for a in arguments[1:] if a.startswith(("--config.", "-config."))]
        if bare := [a for a in given if "=" not in a]:
            raise UserError(f"{bare[0]}: a setting needs a value, {bare[0]}=VALUE")
        others = ["--dry_run=plan" if a in ("--dry_run", "-dry_run") else a for a in arguments if a not in given]
        rest = FLAGS(others)
    except flags.UnrecognizedFlagError as error:
        known = [*MODES_OF, *(f"config.{name}" for name, *_ in settings.fields(Config()))]
        hint = nearest_setting(error.flagname, known)
        raise UserError(f"--{error.flagname}: there is no such flag (see --help){hint}") from error
    except flags.Error as error:
        raise UserError(f"{str(error).removeprefix('ERROR:: ')}; see --help") from error
    if len(rest) > 1:
        hint = f"; did you mean --mode={rest[1]}?" if rest[1] in MODES else ""
        raise UserError(f"{rest[1]}: arguments are flags, --name=value; see --help{hint}")
    for name, choices in CHOICES.items():
        if (value := FLAGS[name].value) is not None and value not in choices:
            raise UserError(f"--{name}={value}: wants one of {', '.join(choices)}{nearest(value, choices)}")
    for name, modes in MODES_OF.items():
        if FLAGS[name].present and FLAGS.mode not in modes:
            raise UserError(f"--{name}: --mode={FLAGS.mode} does not use it (--mode={', '.join(modes)}); leave it out")
    for name in [*PATHS, *(["source"] if FLAGS.mode == "import" else [])]:
        if value := FLAGS[name].value:  # a shell leaves ~ behind = as it is
            FLAGS[name].value = os.path.expanduser(str(value))
    return dict(a.lstrip("-").removeprefix("config.").split("=", 1) for a in given)


def usage() -> str:
    """Every flag and every setting with its type, default and meaning."""
    lines = ["python launch.py [--mode=M] [--config=FILE] [--workdir=DIR] [--config.NAME=VALUE ...]"]
    lines += ["\nmodes", *(f"  {mode:<10} {meaning}" for mode, meaning in MODES.items())]
    lines += ["\nflags, with the modes that use them"]
    for name, modes in MODES_OF.items():
        default = "" if FLAGS[name].default is None else FLAGS[name].default
        which = "" if len(modes) > len(MODES) - 2 else f"{', '.join(modes)}: "
        choices = f" <{'|'.join(CHOICES[name])}>" if name in CHOICES else ""
        lines.append(f"  --{name}={default}  {which}{FLAGS[name].help}{choices}")
    lines += ["\nsettings of a study (ablate), --config.NAME=VALUE; those of its runs are --config.base.NAME=VALUE"]
    lines += [f"  {field.name}  {field.metadata['meaning']}" for field in dataclasses.fields(study.Study) if field.metadata]
    lines += ["\nsettings, --config.NAME=VALUE, with their defaults, which an experiment file may change"]
    lines += _settings(Config())
    return "\n".join(lines)


def _settings(config: Any, prefix: str = "", indent: str = "  ", inside: tuple[type, ...] = ()) -> Iterator[str]:
    """A line for each setting, and below a component those that it can be in its place, with their own settings. Of components
    inside components of the same kind (`inside`) there is no end, so that they are not listed again."""
    for name, kind, field, value in settings.fields(config, prefix):
        yield f"{indent}{name}={settings.text_of(value)}  {field.metadata['meaning']} ({settings.type_name(kind)})"
        others = kind.registry.values() if isinstance(value, registry.Component) and kind not in inside else ()
        for other in others:
            if other is not type(value):
                yield f"{indent}  {name}={other.name}: {(other.__doc__ or '').strip().splitlines()[0]}"
                yield from _settings(other(), f"{name}.", f"{indent}    ", (*inside, kind))


def run() -> None:
    try:
        streams.prepare()
        if any(a in ("--help", "-h", "-help", "--helpfull", "--helpshort") for a in sys.argv[1:]):
            print(usage(), flush=True)
            return
        overrides = parse(sys.argv)
        app.run(lambda _: main(overrides), argv=sys.argv[:1], flags_parser=lambda argv: argv)
    except UserError as error:
        print(f"launch.py: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # whoever read our output has seen enough
        streams.discard_stdout()
    except KeyboardInterrupt:
        sys.exit("launch.py: interrupted")
    except Exception as error:
        error.add_note(BUG)
        raise


if __name__ == "__main__":
    run()
