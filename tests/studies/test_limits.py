"""Counts of dropped and cut items reach results.csv from workdirs, and the report from there, by arm."""

import json

import pytest
import test_report
import written

from transformer import cuts
from transformer.cuts import Cut
from transformer.errors import UserError
from transformer.runtime import workdir as workdirs
from transformer.runtime.workdir import Workdir
from transformer.studies import results

DROPPED = Cut(6174, 16141, "examples were dropped (config.data.too_long)", "train")
ENDED = "outputs ended at the limit on their length"


def text_of(tmp_path, ended):
    """The report of runs that dropped as many examples, and of which `ended(arm, seed)` of 980 outputs ended at the limit."""
    study = test_report.make()
    rows = test_report.loss(study)
    for row in rows:
        count = ended(row["arm"], row["seed"])
        row["cuts"] = json.dumps(cuts.to_json([DROPPED, *cuts.some(Cut(count, 980, ENDED, "test"))]))
    return study, test_report.report_text(tmp_path, study, rows)


def test_a_report_says_what_runs_dropped_and_cut_by_arm(tmp_path):
    study, text = text_of(tmp_path, lambda arm, seed: 980 - seed if arm == "16" else 0)
    section = text[text.index("## Dropped, cut or replaced") :].partition("\n## ")[0].splitlines()
    dropped, ended = (next(line for line in section if word in line) for word in ("dropped (", ENDED))
    assert dropped.endswith("6,174 of 16,141 in every arm") and dropped.startswith("- train")
    assert "`16` 976 to 980 of 980" in ended and f"`{study.compare_with}` 0" in ended
    _, text = text_of(tmp_path / "same", lambda arm, seed: 0)
    assert ENDED not in text and "## Dropped" in text


def test_older_results_tell_of_none_and_damaged_ones_are_named(tmp_path):
    study = test_report.make()
    assert "## Dropped" not in test_report.report_text(tmp_path, study, test_report.loss(study))
    rows = test_report.loss(study)
    rows[0]["cuts"] = '[{"count": 1}]'
    with pytest.raises(UserError, match="results.csv, line 2: cuts "):
        results.read(written.write(tmp_path / "damaged", study, rows) / "results.csv", study)


def test_a_run_tells_of_its_training_and_of_what_it_scored(tmp_path):
    """Each once, though the scores' file repeats what training dropped."""
    workdir, scored = Workdir(tmp_path), Cut(3, 980, ENDED, "test")
    assert results._cuts(workdir) == []
    workdir.write_cuts([DROPPED])
    assert results._cuts(workdir) == [DROPPED]
    workdirs.write_json(workdir.evaluation_file("test"), {"scores": {}, "cuts": cuts.to_json([DROPPED, scored])})
    assert results._cuts(workdir) == [DROPPED, scored]
