"""A results.csv as a study would write it, for fictitious runs."""

import csv
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from transformer.studies import results
from transformer.studies.study import Study, arm_configs

_CONFIGS: list[Any] = []  # of the last study


def row(study: Study, arm: str, seed: int, **more: Any) -> dict[str, Any]:
    """A finished run; `more`: other columns, or instead of these."""
    if not _CONFIGS or _CONFIGS[0] is not study:
        _CONFIGS[:] = [study, arm_configs(study)]
    config = _CONFIGS[1][arm]
    columns = {"part": "study", "arm": arm, "seed": seed, "status": "finished", "parameters": 1234567, "flops": 1.5e13}
    columns |= {
        "seconds": 61.0 + seed,
        "commit": "0123abc",
        "versions": "python=3.11.2 jax=0.10.2",
        "machine": "2 cores; 1x cpu",
    }
    columns |= {"learning_rate": "", "hash": "x", "error": ""}
    columns["settings"] = " ".join(f"{name}={value}" for name, value in results.changed(config).items())
    return columns | {f"curve of {results.curve_of(study)}": ""} | more


def write(folder: Path, study: Study, rows: Iterable[Mapping[str, Any]]) -> Path:
    rows = list(rows)
    folder.mkdir(parents=True, exist_ok=True)
    labels = [metric.label for metric in results.columns(study)]
    names = dict.fromkeys([*rows[0], *labels])
    with (folder / "results.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(names), restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return folder


def all_of(study: Study, score: Callable[[str, int], Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Every arm with every seed, and the columns that `score` gives."""
    return [row(study, arm, seed, **score(arm, seed)) for arm in study.arms for seed in range(study.seeds)]
