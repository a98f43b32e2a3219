"""What the runs of a study dropped, cut or replaced: a section of the report, by arm."""

from collections.abc import Sequence

from transformer.studies.findings import Findings
from transformer.studies.markdown import code, plain
from transformer.studies.results import Row


def section(findings: Findings) -> list[str]:
    """Nothing, if no run tells of any."""
    kinds = list(dict.fromkeys((cut.where, cut.what) for row in findings.rows for cut in row.cuts))
    if not kinds:
        return []
    return [
        "## Dropped, cut or replaced",
        "Counts of one run; of several runs that differ, the least and the most. Where arms differ in them, scores compare "
        "these limits, too.",
        "\n".join(_line(findings, *kind) for kind in kinds),
    ]


def _line(findings: Findings, where: str, what: str) -> str:
    by_arm = {
        arm: _range([_count(row, where, what) for row in runs])
        for arm in findings.study.arms
        if (runs := [row for row in findings.runs(arm) if row.status == "finished"])
    }
    name = f"{plain(where)}: {plain(what)}" if where else plain(what)
    if len(set(by_arm.values())) == 1:
        return f"- {name}: {next(iter(by_arm.values()))} in every arm"
    return f"- {name}: " + ", ".join(f"{code(arm)} {text}" for arm, text in by_arm.items())


def _count(row: Row, where: str, what: str) -> tuple[int, int]:
    return next(((cut.count, cut.of) for cut in row.cuts if (cut.where, cut.what) == (where, what)), (0, 0))


def _range(counts: Sequence[tuple[int, int]]) -> str:
    least, most, of = min(n for n, _ in counts), max(n for n, _ in counts), max(of for _, of in counts)
    number = f"{least:,}" if least == most else f"{least:,} to {most:,}"
    return f"{number} of {of:,}" if of else number
