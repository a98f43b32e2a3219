"""The overhead of a study: start of workers, compilation, preparing data, scores, tables.

    python -m experiments.benchmarks.study [--updates=N] [--workers=N]

Two arms of equal shape (two rates of dropout) and three seeds, number words, no search. The pure training time of a run is its
number of updates times the median seconds of one, between two reports of its log; all other time is overhead. Other work on the
machine affects both: with --updates=60 on two shared cores, 252 s, of which 128 s were pure training: an overhead of 20.8 s for
each run.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

from experiments.shapes import studies
from transformer.modes.ablation import ablate
from transformer.runtime.workdir import Workdir
from transformer.settings import override
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
            seeds=3,
        )
    )


def pure_seconds(folder: Path) -> float:
    """Seconds of the updates of a run, without start and validations."""
    rows = [row for row in read_metrics(Workdir(folder).metrics_file) if "train/loss" in row]
    pairs = zip(rows, rows[1:], strict=False)
    pace = statistics.median((after["time"] - before["time"]) / (after["step"] - before["step"]) for before, after in pairs)
    return rows[-1]["step"] * pace


def main(updates: int, workers: int) -> None:
    with tempfile.TemporaryDirectory() as place:
        root, begun = Path(place) / "study", time.monotonic()
        ablate(study(updates), root, workers=workers)
        whole = time.monotonic() - begun
        found = [pure_seconds(file.parent) for file in sorted(root.glob("runs/*/*/config.json"))]
    pure = sum(found) / workers
    print(f"{len(found)} runs of {updates} updates, {workers} at a time: {whole:.0f} s, of which {pure:.0f} s pure training")
    print(f"overhead {100 * (whole / pure - 1):.0f} %, {(whole - pure) * workers / len(found):.1f} s a run")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--updates", type=int, default=200)
    parser.add_argument("--workers", type=int, default=1)
    arguments = parser.parse_args(sys.argv[1:])
    main(arguments.updates, arguments.workers)
