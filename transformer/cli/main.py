"""Runs a command: settings, workdir, mode; errors are one line and an exit status."""

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import app, logging

from transformer import effects, registry, settings, streams
from transformer.cli.flags import DEFAULT, FLAGS, STUDIES, parse
from transformer.cli.usage import requested_section, usage
from transformer.config import Checkpoint, Config, Parallel, Train
from transformer.data import fitting
from transformer.errors import BUG, UserError, launcher, program, say
from transformer.studies import study
from transformer.validation import validate


def main(overrides: Mapping[str, str]) -> None:
    logging.set_verbosity(FLAGS.log_level)
    mode = FLAGS.mode
    for file in FLAGS.variants:
        registry.load_file(file, f"--variants={file}")
    if "://" in str(FLAGS.workdir):
        raise UserError(
            f"--workdir={FLAGS.workdir}: a workdir must be on a file system, as it is locked; mount the bucket "
            "and name that folder"
        )
    workdir, notices = Path(FLAGS.workdir or Path("runs") / _name(overrides)), []
    if mode in STUDIES:
        if FLAGS.config is None:
            raise UserError(
                f"--mode={mode} needs --config=FILE with a study, as in experiments/ablations, or --arm and any experiment"
            )
        if FLAGS.arm or FLAGS.grid:
            config: Any = study.from_flags(FLAGS.config, overrides, FLAGS.arm, FLAGS.grid, fitting.read, FLAGS.metric)
        elif FLAGS.metric:
            raise UserError(f"--metric={FLAGS.metric[0]}: only with --arm or --grid; a study's file has its metrics")
        else:
            config = study.read(FLAGS.config, overrides, fitting.read)
    elif mode == "compare" and overrides:
        raise UserError(f"--config.{next(iter(overrides))}: --mode=compare does not use it; leave it out")
    elif mode in ("train", "describe", "check"):
        config, notices = _config(workdir, overrides)
        validate(config)
    else:
        config = None
        if FLAGS.config is not None:
            from transformer.runtime.workdir import with_file

            overrides = with_file(workdir, FLAGS.config, fitting.read(FLAGS.config, overrides), overrides)
    from transformer import modes  # imported here, so that --help and a mistyped name do not wait for JAX

    modes.run(mode, config, workdir, overrides, FLAGS, notices)
    sys.stdout.flush()  # flushed here, where a closed pipe is caught


def _name(overrides: Mapping[str, str]) -> str:
    """The name of the workdir if none is given."""
    if FLAGS.config is None and (other := overrides.get("train.init_from")):
        return f"{Path(other).name}_tuned"
    if FLAGS.mode == "import" and FLAGS.source:
        return Path(FLAGS.source).absolute().name  # of a folder: Llama-3.2-1B has no ending
    name = Path(FLAGS.config or DEFAULT).stem
    return f"{name}_study" if FLAGS.arm or FLAGS.grid else name


def _config(workdir: Path, overrides: Mapping[str, str]) -> tuple[Config, list[str]]:
    """The settings of the experiment file, or, if none is named, of the run in --workdir; with overrides; and notices."""
    stored = FLAGS.workdir and FLAGS.config is None
    if stored and (FLAGS.mode in ("describe", "check") or (workdir / "config.json").is_file()):
        from transformer.runtime.workdir import open_existing

        made = open_existing(workdir).config()
        return effects.settle(settings.override(made, overrides), overrides, lambda: made)
    if FLAGS.config is None and (other := overrides.get("train.init_from")):
        from transformer.interop.configs import with_published_head

        made, model_type = fine_tuning(Path(other))
        config = with_published_head(settings.override(made, overrides), made, model_type, overrides)
        return effects.settle(config, overrides, lambda: made)
    return fitting.settle(FLAGS.config or DEFAULT, overrides)


def fine_tuning(other: Path) -> tuple[Config, str | None]:
    """The settings of another run's model and data, for a short further training at a low rate; and the type of the published
    model that it is from, if any."""
    from transformer.runtime.workdir import open_existing

    say(f"--config.train.init_from={other}: its model and its data are used, unless settings differ")
    train = Train(steps=1000, learning_rate=1e-4, warmup_steps=50, schedule="linear", batch_tokens=2048, evaluate_every=100)
    workdir = open_existing(other)
    model_type = workdir.data_info().model_type if workdir.data_info_file.is_file() else None
    config = workdir.config()
    return dataclasses.replace(config, train=train, checkpoint=Checkpoint(every_steps=500), parallel=Parallel()), model_type


def run() -> None:
    try:
        streams.prepare()
        if (section := requested_section(sys.argv[1:])) is not None:
            print(usage(section, launcher()), flush=True)
            return
        overrides = parse(sys.argv)
        app.run(lambda _: main(overrides), argv=sys.argv[:1], flags_parser=lambda argv: argv)
    except UserError as error:
        print(f"{program()}: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # the reader of our output has closed the pipe
        streams.discard_stdout()
    except KeyboardInterrupt:
        sys.exit(f"{program()}: interrupted")
    except Exception as error:
        if place := registry.place_in_files(error):
            error.add_note(f"Raised in {place}, a file that you named; --mode=check may say more.")
        elif own := registry.own_files():  # its arrays may have another shape than those that it replaces
            error.add_note(
                f"First try --mode=check, which tells whether a hook in {', '.join(own)} causes this. If none does: {BUG}"
            )
        else:
            error.add_note(BUG)
        raise
