"""The flags, the modes that use each of them, and parsing."""

import os
from collections.abc import Callable
from typing import Any

from absl import flags

from transformer import settings
from transformer.config import Config
from transformer.errors import UserError, nearest, nearest_setting

MODES = {
    "train": "trains, or resumes; then scores the test split and draws figures",
    "evaluate": "scores a split: a table on stdout, everything in WORKDIR/evaluation/<split>.json",
    "translate": "one output line for each input line, in order",
    "predict": "labels, tags, answers, filled masks or vectors: one output line for each input line, in order",
    "generate": "text that continues a prompt, written while it is sampled",
    "attend": "attention of a sentence: an interactive page, attention.html, and PNG files",
    "align": "number_words: how well attention agrees with the known alignment of words",
    "import": "makes a workdir from --source, a folder of Hugging Face Transformers",
    "export": "makes such a folder, --output, from a workdir",
    "describe": "parameters, FLOPs and bytes of a configuration; runs nothing",
    "check": "whether the variant of a configuration is correct: a table of properties with measured errors, on a small model",
    "compare": "compares runs, --workdir=A,B,..: settings that differ, scores with intervals, outputs; an HTML page",
    "ablate": "trains the arms of a study with several seeds, or resumes it; results.csv and a report",
    "report": "writes the report of a study again, only from WORKDIR/results.csv",
}
STUDIES = ("ablate", "report")
DEFAULT = "experiments/number_words.py"
HELP = ("--help", "-h", "-help", "--helpfull", "--helpshort")
FLAGS = flags.FLAGS
MODES_OF: dict[str, tuple[str, ...]] = {}  # flag -> the modes that use it
GROUP_OF: dict[str, str] = {}  # flag -> its heading in --help
CHOICES: dict[str, tuple[str, ...]] = {}  # flag -> its values, if there are few
PATHS: list[str] = []


def _flag(
    define: Callable[..., Any],
    name: str,
    meaning: str,
    group: str,
    modes: str = " ".join(MODES),
    default: Any = None,
    path: bool = False,
    choices: tuple[str, ...] = (),
    **limits: Any,
) -> None:
    """Defines a flag, its section, and the modes that use it; with other modes it is an error."""
    MODES_OF[name], GROUP_OF[name] = tuple(modes.split()), group
    CHOICES.update({name: choices} if choices else {})
    PATHS.extend([name] if path else [])
    define(name, default, meaning, **limits)


_text, _number, _texts = flags.DEFINE_string, flags.DEFINE_integer, flags.DEFINE_multi_string
_run = "every run"
_trained = "evaluate translate predict generate attend align export"
_flag(_text, "mode", "one of the modes above", _run, default="train", choices=tuple(MODES))
_flag(
    _text,
    "config",
    f"experiment file; default: that of an existing --workdir, else {DEFAULT}. ablate, report: file of a study",
    _run,
    f"train describe check ablate report {_trained}",
    path=True,
)
_flag(
    _text,
    "workdir",
    "folder of the run; default runs/<name of the experiment file>, import: runs/<name of --source>; compare: several, "
    "separated by commas",
    _run,
    path=True,
)
_flag(
    flags.DEFINE_list,
    "variants",
    "Python files of classes in a workdir's settings that may be executed; files of --config and settings always may",
    _run,
    default=[],
)
_flag(
    _text,
    "log_level",
    "minimum level of messages that libraries log to stderr",
    _run,
    default="warning",
    choices=("debug", "info", "warning", "error"),
)
_io = "input and output"
_flag(
    _text,
    "input",
    "file to read; default stdin; attend: a sentence on each line, or sentence TAB target",
    _io,
    "translate predict attend",
    path=True,
)
_flag(
    _text,
    "output",
    "file to write, default stdout; attend, export: folder; attend: default WORKDIR/pictures/<sentence>; compare: the page",
    _io,
    "translate predict generate attend export compare",
    path=True,
)
_flag(_text, "split", "the split", _io, "evaluate compare", "test", choices=("train", "validation", "test"))
_flag(_text, "source", "the sentence (attend), or the folder (import)", _io, "attend import")
_flag(_text, "target", "its translation; default: the model's own output", _io, "attend")
_flag(_text, "prompt", "the beginning of the text; default all of stdin", _io, "generate")
_flag(_number, "num_samples", "number of continuations", _io, "generate", 1, lower_bound=1)
_flag(
    _number,
    "seed",
    "seed of sampling; that of training is --config.train.seed",
    _io,
    "generate",
    0,
    lower_bound=0,
    upper_bound=settings.MOST,
)
_study = "studies"
_flag(
    _texts,
    "arm",
    'an arm of a study without a study file, "8 heads: model.num_heads=8"; repeat it for each; --config is any experiment, '
    "which is compared too, as the arm base, unless an arm equals it",
    _study,
    "ablate report",
    default=[],
)
_flag(
    _texts,
    "grid",
    "arms of all combinations, model.num_heads=1,2,4; repeat it for each setting; --config is any experiment",
    _study,
    "ablate report",
    default=[],
)
_flag(
    _texts,
    "metric",
    "a further metric of a study without a study file, test/bleu, or with what is better, test/mine:lower; repeat it for each",
    _study,
    "ablate report",
    default=[],
)
_flag(
    _text,
    "dry_run",
    "only prints what would be trained, its cost and the differences it can find; measure: also the time, from a few updates",
    _study,
    "ablate",
    choices=("plan", "measure"),
)
_flag(
    _number,
    "workers",
    "number of runs at a time; default 1, with --ray as many as there is room for",
    _study,
    "ablate",
    lower_bound=1,
)
_flag(
    _number,
    "vmap_seeds",
    "this many seeds of an arm are trained by one program (vmap); same results as alone, up to rounding",
    _study,
    "ablate",
    1,
    lower_bound=1,
)
_flag(
    _text,
    "ray",
    "run on the Ray cluster at HOST:PORT, or auto; a GPU for each run if it has any, else a CPU; all nodes share --workdir",
    _study,
    "ablate",
)
_machine = "devices, speed and memory"
_flag(_text, "profile", "traces updates FIRST:LAST, such as 100:105, into WORKDIR/profile; slows them down", _machine, "train")
_flag(
    _number,
    "devices",
    "also count the bytes on each of this many devices, laid out as in config.parallel",
    _machine,
    "describe",
    lower_bound=1,
)
_flag(flags.DEFINE_float, "memory_gib", "GiB of a device, with --devices: does it fit?", _machine, "describe", lower_bound=0)
_several = "train evaluate"  # modes that can run as several processes
_flag(
    _text,
    "coordinator",
    "for several processes: HOST:PORT of process 0; not needed on clusters that JAX knows",
    _machine,
    _several,
)
_flag(_number, "num_processes", "number of processes; with --coordinator", _machine, _several, lower_bound=1)
_flag(_number, "process_id", "number of this process, from 0; with --coordinator", _machine, _several, lower_bound=0)


def parse(arguments: list[str]) -> dict[str, str]:
    """The settings `--config.a.b=value` by name; all other arguments are parsed into FLAGS."""
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
    _check()
    for name in [*PATHS, *(["source"] if FLAGS.mode == "import" else [])]:
        if value := FLAGS[name].value:  # a shell leaves ~ behind = as it is
            FLAGS[name].value = os.path.expanduser(str(value))
    return dict(a.lstrip("-").removeprefix("config.").split("=", 1) for a in given)


def _check() -> None:
    """UserError: a flag has an invalid value, or the mode does not use it."""
    for name, choices in CHOICES.items():
        if (value := FLAGS[name].value) is not None and value not in choices:
            raise UserError(f"--{name}={value}: expected one of {', '.join(choices)}{nearest(value, choices)}")
    for name, modes in MODES_OF.items():
        if FLAGS[name].present and FLAGS.mode not in modes:
            raise UserError(f"--{name}: --mode={FLAGS.mode} does not use it; leave it out, or use --mode={' or '.join(modes)}")
