"""Command line: flags in, one call out. `python launch.py --help` lists every flag and every setting."""

import dataclasses
import os
import sys
from pathlib import Path

from absl import app, flags, logging

from transformer import settings
from transformer.config import Config
from transformer.data import fitting
from transformer.errors import BUG, UserError, nearest
from transformer.runtime.memory import keep_freed_memory
from transformer.studies import study
from transformer.validation import validate

MODES = {
    "train": "trains, or goes on where the run stopped; then scores the test split and draws pictures",
    "evaluate": "scores a split: table to stdout, all of it to WORKDIR/evaluation/<split>.json",
    "translate": "a line out for a line in, in order",
    "predict": "labels, tags, answers, filled masks: a line out for a line in, in order",
    "generate": "text that goes on after a prompt, written as it is drawn",
    "attend": "attention maps of a sentence, PNG files",
    "align": "number_words: how well attention agrees with the known alignment of words",
    "import": "makes a workdir of a folder --source of Hugging Face Transformers",
    "export": "makes such a folder, --output, of a workdir",
    "describe": "parameters, FLOPs and bytes of a configuration; runs nothing",
    "ablate": "trains the arms of a study with several seeds, or goes on with them; results.csv and a report",
    "report": "writes the report of a study again, from WORKDIR/results.csv alone",
}
FLAGS = flags.FLAGS
flags.DEFINE_enum("mode", "train", list(MODES), "what to do")
flags.DEFINE_string("config", None, "experiment file; default experiments/number_words.py. ablate, report: file of a study")
flags.DEFINE_string("workdir", None, "folder of the run; default runs/<name of the experiment file>")
flags.DEFINE_enum("split", "test", ("train", "validation", "test"), "evaluate: which split")
flags.DEFINE_string("input", None, "translate, predict: file to read; default stdin")
flags.DEFINE_string("output", None, "file to write; default stdout. attend, export: folder; default WORKDIR/pictures")
flags.DEFINE_string("prompt", None, "generate: the beginning; default all of stdin")
flags.DEFINE_integer("num_samples", 1, "generate: how many continuations", lower_bound=1)
flags.DEFINE_integer(
    "seed", 0, "generate: of what is drawn; that of training is --config.train.seed", lower_bound=0, upper_bound=settings.MOST
)
flags.DEFINE_string("source", None, "attend: the sentence. import: the folder")
flags.DEFINE_string("target", None, "attend: its translation; default what the model says")
flags.DEFINE_string("profile", None, "train: a trace of updates FIRST:LAST, as 100:105, into WORKDIR/profile; slows those down")
flags.DEFINE_boolean("dry_run", False, "ablate: only says what would be trained, what it costs, and how long it takes")
flags.DEFINE_integer(
    "workers", None, "ablate: how many runs at a time; default 1, with --ray as many as there is room for", lower_bound=1
)
flags.DEFINE_integer(
    "vmap_seeds",
    1,
    "ablate: so many seeds of an arm are one run of one program (vmap); results as alone, to rounding",
    lower_bound=1,
)
flags.DEFINE_string(
    "ray",
    None,
    "ablate: on the Ray cluster at HOST:PORT, or auto; a GPU for each run if it has some, else a CPU; all nodes see --workdir",
)
flags.DEFINE_integer("devices", None, "describe: bytes of each of so many devices, cut as config.parallel says", lower_bound=1)
flags.DEFINE_float("memory_gib", None, "describe: GiB of a device, with --devices: does it fit?", lower_bound=0)
flags.DEFINE_string("coordinator", None, "train, evaluate by several processes: HOST:PORT of the first; a cluster may know")
flags.DEFINE_integer("num_processes", None, "how many processes; with --coordinator", lower_bound=1)
flags.DEFINE_integer("process_id", None, "which of them this one is, from 0; with --coordinator", lower_bound=0)
flags.DEFINE_enum("log_level", "warning", ("debug", "info", "warning", "error"), "least of what libraries log to stderr")


def main(overrides: dict[str, str]) -> None:
    logging.set_verbosity(FLAGS.log_level)
    file = Path(FLAGS.config or Path(__file__).parent / "experiments" / "number_words.py")
    workdir = Path(FLAGS.workdir or Path("runs") / file.stem)
    if "://" in str(FLAGS.workdir):
        raise UserError(
            f"--workdir={FLAGS.workdir}: a workdir needs a file system, it is locked; mount the bucket, and name that"
        )
    reads = FLAGS.mode in ("train", "describe")
    config = validate(fitting.read(file, overrides)) if reads else Config()
    if FLAGS.mode in ("ablate", "report"):
        config = study.read(file, overrides, fitting.read)
    from transformer import modes  # here, so that --help and a mistyped name need not wait for JAX

    modes.run(FLAGS.mode, config, workdir, overrides, FLAGS)
    sys.stdout.flush()  # here, where a closed pipe is caught


def parse(arguments: list[str]) -> dict[str, str]:
    """Settings, `--config.a.b=value`, by name; the other arguments are parsed into FLAGS."""
    given = [a for a in arguments[1:] if a.startswith(("--config.", "-config."))]
    if strange := [a for a in arguments if not a.isascii() and a.encode(errors="replace").decode() != a]:
        raise UserError(
            f"{strange[0]!a}: the argument is not UTF-8; set the terminal's encoding to it, or put the text into a file"
        )
    if bare := [a for a in given if "=" not in a]:
        raise UserError(f"{bare[0]}: a setting needs a value, {bare[0]}=VALUE")
    try:
        rest = FLAGS([a for a in arguments if a not in given])
    except flags.UnrecognizedFlagError as error:
        known = [*FLAGS, *(f"config.{name}" for name, *_ in settings.fields(Config()))]
        raise UserError(f"--{error.flagname}: there is no such flag (see --help){nearest(error.flagname, known)}") from error
    except flags.Error as error:
        raise UserError(f"{str(error)}; see --help") from error
    if len(rest) > 1:
        raise UserError(f"{rest[1]}: arguments are flags, --name=value; see --help")
    return dict(a.lstrip("-").removeprefix("config.").split("=", 1) for a in given)


def usage() -> str:
    """Every flag and every setting with its type, default and meaning."""
    own = FLAGS.get_key_flags_for_module(sys.modules[__name__])
    lines = ["python launch.py [--mode=M] [--config=FILE] [--workdir=DIR] [--config.NAME=VALUE ...]"]
    lines += ["\nmodes", *(f"  {mode:<10} {meaning}" for mode, meaning in MODES.items())]
    lines += ["\nflags", *(f"  --{f.name}={'' if f.default is None else f.default}  {f.help}" for f in own)]
    lines += ["\nsettings of a study (ablate), --config.NAME=VALUE; those of its runs are --config.base.NAME=VALUE"]
    lines += [f"  {field.name}  {field.metadata['meaning']}" for field in dataclasses.fields(study.Study) if field.metadata]
    lines += ["\nsettings, --config.NAME=VALUE, with their defaults, which an experiment file may change"]
    for name, kind, field, value in settings.fields(Config()):
        shown = "none" if value is None else ",".join(map(str, value)) if isinstance(value, tuple) else value
        lines.append(f"  {name}={shown}  {field.metadata['meaning']} ({settings.type_name(kind)})")
    return "\n".join(lines)


def run() -> None:
    keep_freed_memory()
    try:
        sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]  # whatever the locale
        if any(a in ("--help", "-h", "-help", "--helpfull", "--helpshort") for a in sys.argv[1:]):
            print(usage(), flush=True)
            return
        overrides = parse(sys.argv)
        app.run(lambda _: main(overrides), argv=sys.argv[:1], flags_parser=lambda argv: argv)
    except UserError as error:
        print(f"launch.py: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # whoever read our output has seen enough; Python flushes once more when it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        sys.exit("launch.py: interrupted")
    except Exception as error:
        error.add_note(BUG)
        raise


if __name__ == "__main__":
    run()
