"""The overhead of a study: start of workers, compilation, preparing data, scores, tables.

    python -m experiments.benchmarks.study [--updates=N] [--workers=N]

Two arms of equal shape (two rates of dropout) and five seeds, number words, no search; nothing is compiled before. The training
time of a run is its number of updates times the median seconds of one, between two reports of its log. With --updates=80
--workers=2 on two cores (Intel Xeon) that did little else, 227 s: for each run 28 s of training, 6 s for its scores, and 11 s
for all else, most of it compilation. A run of the later half, with compiled programs, took 2 s for scores and 3 s for all else.
For runs of two minutes the 11 and 3 s are 9 % and 2.5 % of the training.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from experiments.shapes import studies
from transformer.modes.ablation import ablate
from transformer.runtime import compilation_cache
from transformer.runtime.workdir import Workdir
from transformer.settings import override
from transformer.studies.results import run_file
from transformer.studies.study import Metric, Study, validate
from transformer.training.telemetry import read_metrics


def study(updates: int) -> Study:
    short = {
        "data.batching": "packed",
        "data.buckets": "6",
        "data.row_length": "64",
        "train.log_every": "10",
        "data.test": "none",
    }
    return validate(
        Study(
            question="What does a study cost beyond its training?",
            base=override(studies.number_words(updates), short | {"train.evaluate_every": str(updates)}),
            arms={"dropout 0.1": {}, "dropout 0.2": {"model.dropout_rate": 0.2}},
            metrics=(Metric("validation/nll", "lower"),),
            compare_with="dropout 0.1",
            seeds=5,
        )
    )


class Spent(NamedTuple):
    """Seconds of a run."""

    training: float  # updates
    scores: float  # of the last checkpoint: loss and translations
    rest: float  # start, compilation, data, validations, checkpoints


def spent(folder: Path) -> Spent:
    workdir = Workdir(folder)
    rows = [row for row in read_metrics(workdir.metrics_file) if "train/loss" in row]
    pairs = zip(rows, rows[1:], strict=False)
    pace = statistics.median((after["time"] - before["time"]) / (after["step"] - before["step"]) for before, after in pairs)
    training = rows[-1]["step"] * pace
    scores = workdir.evaluation_file("validation").stat().st_mtime - workdir.metrics_file.stat().st_mtime
    whole = sum(map(float, run_file(folder, ".seconds").read_text().split()))
    return Spent(training, scores, whole - training - scores)


def main(updates: int, workers: int) -> None:
    with tempfile.TemporaryDirectory() as place:
        os.environ["XDG_CACHE_HOME"] = place  # no program is compiled yet
        compilation_cache.enable()
        root, begun = Path(place) / "study", time.monotonic()
        ablate(study(updates), root, workers=workers)
        whole = time.monotonic() - begun
        folders = [file.parent for file in root.glob("runs/*/*/config.json")]
        runs = [spent(folder) for folder in sorted(folders, key=lambda folder: Workdir(folder).metrics_file.stat().st_mtime)]
    training, scores, rest = (sum(each) / workers for each in zip(*runs, strict=True))
    print(f"{len(runs)} runs of {updates} updates, {workers} at a time: {whole:.0f} s")
    print(f"of which training {training:.0f} s, scores {scores:.0f} s, the rest of the runs {rest:.0f} s")
    later = [statistics.median(each) for each in zip(*runs[len(runs) // 2 :], strict=True)]
    print("a run of the later half:", ", ".join(f"{n} {s:.1f} s" for n, s in zip(Spent._fields, later, strict=True)))
    print(f"overhead beside training and scores: {(whole - training - scores) * workers / len(runs):.1f} s a run")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--updates", type=int, default=200)
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args(sys.argv[1:])
    main(arguments.updates, arguments.workers)
