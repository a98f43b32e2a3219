"""Modes import and export: from a folder of Hugging Face's Transformers to a workdir, and back."""

from collections.abc import Mapping
from pathlib import Path

from transformer import effects, settings
from transformer.config import Config
from transformer.errors import UserError, say
from transformer.files import new_folder, remove
from transformer.inference import loading
from transformer.inference.special import with_codes
from transformer.interop import huggingface
from transformer.models import axes
from transformer.runtime import lock
from transformer.runtime import workdir as workdirs
from transformer.runtime.checkpoints import Checkpoints
from transformer.runtime.devices import Runtime
from transformer.validation import validate


def import_weights(path: Path, overrides: Mapping[str, str], source: str | None) -> None:
    """Makes a workdir from the folder `source`, which other modes can then use. `overrides` may name data to score on."""
    if not source:
        raise UserError("--mode=import needs --source=FOLDER, with config.json and model.safetensors")
    with lock.only_run(path):
        if any(file.name != lock.NAME for file in path.iterdir()):
            raise UserError(f"--workdir={path}: it exists already and is not empty; choose another")
        try:
            _import(path, overrides, source)
        except BaseException:  # so that the same command can be repeated
            remove(file for file in path.iterdir() if file.name != lock.NAME)
            raise


def _import(path: Path, overrides: Mapping[str, str], source: str) -> None:
    """Fills the empty workdir."""
    found = huggingface.read(source, _placing(overrides))
    config, notices = effects.settle(settings.override(found.config, overrides), overrides, lambda: found.config)
    _check_kept(found.config, validate(config))
    for notice in notices:
        say(notice)
    workdir = workdirs.create(path, config, say)
    with new_folder(workdir.vocabulary) as folder:
        for name, vocabulary in found.vocabularies.items():
            vocabulary.save(folder, name)
    workdir.write_data_info(with_codes(config, found.data_info, found.vocabularies))
    checkpoints = Checkpoints(workdir.checkpoints, config.checkpoint)
    checkpoints.save(0, {"params": found.params})
    checkpoints.close()
    workdir.append_record(workdirs.run_record({"imported": str(source)}))
    say(f"{source}: config.family {config.family}, config.objective.kind {config.objective.kind}, imported to {path}")


def _placing(overrides: Mapping[str, str]) -> huggingface.Placing | None:
    """How parameters are divided over the devices of a mesh; None: there is none."""
    parallel = settings.override(Config(), {n: text for n, text in overrides.items() if n.startswith("parallel.")}).parallel
    if Runtime(parallel).mesh is None:
        return None
    return lambda config, shapes: Runtime(parallel, axes=axes.of_model(config.model)).shardings(shapes)


def _check_kept(found: Config, config: Config) -> None:
    """UserError: `overrides` change a setting that is given by the weights."""
    own = ("family", "model.", "objective.", "data.vocabulary:", "data.joint_vocabulary:")
    if changed := [each for each in settings.differences(found, config) if each.startswith(own)]:
        raise UserError(f"--config: {', '.join(changed)}: these settings belong to the weights; do not change them")


def export_weights(path: Path, overrides: Mapping[str, str], output: str | None) -> None:
    """Writes the model of a workdir to the folder `output` and prints its name."""
    if not output:
        raise UserError("--mode=export needs --output=FOLDER")
    workdirs.check_writable("--output", output)
    loaded = loading.read(path, overrides, "export", may_change=("data.lowercase",))
    try:
        huggingface.write(output, loaded.config, loaded.data_info, loaded.params, loaded.vocabularies)
    except OSError as error:
        raise UserError(f"--output={output}: {error.strerror}; name a folder that can be written") from error
    print(output, flush=True)
