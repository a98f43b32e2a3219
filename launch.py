"""Command line: flags in, one call out. `python launch.py --help` lists every flag and every setting."""

import sys
from pathlib import Path

from absl import app, flags

from transformer import config as config_lib
from transformer.errors import UserError, nearest

MODES = ("train", "evaluate", "translate", "attend", "describe")
FLAGS = flags.FLAGS
flags.DEFINE_enum("mode", "train", MODES, "what to do")
flags.DEFINE_string("config", None, "experiment file (train, describe); default experiments/number_words.py")
flags.DEFINE_string("workdir", None, "folder of the run; default runs/<name of the config>")
flags.DEFINE_enum("split", "test", ("train", "validation", "test"), "evaluate: which split")
flags.DEFINE_string("input", None, "translate: file to read; default stdin")
flags.DEFINE_string("output", None, "translate: file to write, default stdout; attend: folder of the pictures")
flags.DEFINE_string("source", None, "attend: the sentence")
flags.DEFINE_string("target", None, "attend: its translation; default what the model says")


def main(overrides: dict[str, str]) -> None:
    from transformer import modes  # here, so that --help and a mistyped flag need not wait for JAX

    file = Path(FLAGS.config or Path(__file__).parent / "experiments" / "number_words.py")
    workdir = Path(FLAGS.workdir or Path("runs") / file.stem)
    if FLAGS.mode in ("train", "describe"):
        config = config_lib.validate(config_lib.override(config_lib.from_file(file), overrides))
    if FLAGS.mode == "train":
        modes.train(config, workdir)
    elif FLAGS.mode == "describe":
        modes.describe(config)
    elif FLAGS.mode == "evaluate":
        modes.evaluate(workdir, overrides, FLAGS.split)
    elif FLAGS.mode == "translate":
        modes.translate(workdir, overrides, FLAGS.input, FLAGS.output)
    elif FLAGS.mode == "attend":
        modes.attend(workdir, overrides, FLAGS.source, FLAGS.target, FLAGS.output)


def parse(arguments: list[str]) -> dict[str, str]:
    """Settings, `--config.a.b=value`, by name; the other arguments are parsed into FLAGS."""
    settings = [a for a in arguments[1:] if a.startswith(("--config.", "-config."))]
    for argument in settings:
        if "=" not in argument:
            raise UserError(f"{argument}: a setting needs a value, {argument}=VALUE")
    try:
        rest = FLAGS([a for a in arguments if a not in settings])
    except flags.UnrecognizedFlagError as error:
        raise UserError(f"--{error.flagname}: there is no such flag{nearest(error.flagname, FLAGS)}; see --help") from error
    except flags.Error as error:
        raise UserError(f"{str(error)}; see --help") from error
    if len(rest) > 1:
        raise UserError(f"{rest[1]}: arguments are flags, --name=value; see --help")
    pairs = [argument.partition("=")[::2] for argument in settings]
    return {name.lstrip("-").removeprefix("config."): value for name, value in pairs}


def usage() -> str:
    """Every flag and every setting with its type, default and meaning."""
    lines = ["python launch.py [--mode=M] [--config=FILE] [--workdir=DIR] [--config.a.b=value ...]", "", "flags"]
    own = FLAGS.get_key_flags_for_module(sys.modules[__name__])
    lines += [f"  --{flag.name}={flag.default if flag.default is not None else ''}  {flag.help}" for flag in own]
    lines += ["", "settings, --config.NAME=VALUE (defaults of the experiment file stand over these)"]
    for name, kind, field, value in config_lib.fields(config_lib.Config()):
        shown = "none" if value is None else ",".join(map(str, value)) if isinstance(value, tuple) else value
        lines.append(f"  {name}={shown}  {field.metadata['meaning']} ({config_lib.type_name(kind)})")
    return "\n".join(lines)


def run() -> None:
    try:
        if any(a in ("--help", "-h", "-help", "--helpfull", "--helpshort") for a in sys.argv[1:]):
            print(usage())
            return
        overrides = parse(sys.argv)
        app.run(lambda _: main(overrides), argv=sys.argv[:1], flags_parser=lambda argv: argv)
    except UserError as error:
        print(f"launch.py: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:
        sys.stderr.close()  # whoever read our output has seen enough


if __name__ == "__main__":
    run()
