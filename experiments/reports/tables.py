"""The table of studies in RESULTS.md, and a few of its rows in README.md, made from the reports (which results.csv determines).

    python -m experiments.reports.tables

writes the text between the markers of both files; no part of it is written by hand. Each verdict is shown with its
restrictions: flags, "exploratory", learning rates that were not searched, a published effect that is excluded.
"""

import csv
import datetime
import math
import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
DECIDED, UNDECIDED = ("agrees", "disagrees"), "not decided by this study"
MANY = 5  # claims of one study
HIGHLIGHTS = (  # study and number of a claim: what the README shows
    ("attention_scale", 0),
    ("causal_mask", 0),
    ("heads", 0),
    ("heads", 3),
    ("muon_shakespeare", 1),
)
BEGIN, END = "<!-- made by python -m experiments.reports.tables -->", "<!-- end -->"


@dataclass(frozen=True)
class Claim:
    """As a report has it. `verdict`: "agrees, exploratory"; `published`: sentences about published effects, or exponents."""

    study: str
    text: str
    source: str
    verdict: str
    flags: str
    evidence: str
    published: str

    @property
    def decided(self) -> bool:
        return self.verdict in DECIDED


@dataclass(frozen=True)
class Report:
    """`searched`: whether learning rates were; None: nothing is trained."""

    study: str
    question: str
    claims: list[Claim]
    runs: int
    seeds: int
    seconds: float
    searched: bool | None

    @property
    def in_one_row(self) -> bool:
        """Whether it decides none of its many claims."""
        return len(self.claims) > MANY and all(claim.verdict.startswith(UNDECIDED) for claim in self.claims)


def read(folder: Path) -> Report:
    """A report and its runs."""
    text = (folder / "report.md").read_text(encoding="utf-8")
    claims = []
    for part in re.split(r"(?m)^> (?!After )(?=.)", text.partition("## Results")[0])[1:]:
        claimed, source = re.split(r"\n>\n> After ", part, maxsplit=1)
        [(verdict, said)] = re.findall(r"(?m)^\*\*Verdict: (.*?)\.\*\* (.*)$", part)
        flags, _, evidence = said.rpartition(" Without these flags: ")
        evidence = evidence.split(": ", 1)[1].rstrip(".")
        published = " ".join(re.findall(r"(?m)^\*\*The published .*$", part))
        claims.append(
            Claim(
                folder.name,
                claimed,
                source.splitlines()[0],
                verdict,
                flags.removeprefix("Flags: ").rstrip("."),
                evidence,
                published,
            )
        )
    with (folder / "results.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    ours, question = [row for row in rows if row["part"] == "study"], text.splitlines()[0].removeprefix("# ")
    seeds, seconds = len({row["seed"] for row in ours}), math.fsum(float(row["seconds"] or 0) for row in rows)
    searched = "Not searched: each arm" not in text if "## Learning rates" in text else None
    return Report(folder.name, question, claims, len(rows), seeds, seconds, searched)


def reports() -> list[Report]:
    return [read(file.parent) for file in sorted(ROOT.glob("reports/*/report.md"))]  # an unfinished study has none


def results_table(found: list[Report]) -> str:
    """The table of RESULTS.md, with a row for each claim; a study that decides none of its many claims has one row."""
    lines = ["| study | claim | verdict | the runs |", "| --- | --- | --- | --- |"]
    for report in found:
        time = datetime.timedelta(seconds=round(report.seconds))
        rates = {None: "", True: ", rates searched", False: ", rates as set"}[report.searched]
        size = f"{report.runs} runs, {report.seeds} seeds, {time}{rates}"
        title = f"[{report.question}](reports/{report.study}/report.md) `{report.study}.py`: {size}"
        if report.in_one_row:
            first = report.claims[0]
            verdict = f"**none is decided by this study**; the first, {first.verdict}: {first.flags}"
            lines.append(f"| {title} | {len(report.claims)} claims ({first.source}) | {verdict} | see the report |")
            continue
        for number, claim in enumerate(report.claims):
            study = title if not number else ""
            verdict = f"**{claim.verdict}**" + (f": {claim.flags}" if claim.flags else "")
            evidence = f"{claim.evidence}. {claim.published}".strip()
            lines.append(f"| {study} | {claim.text} ({claim.source}) | {verdict} | {evidence} |")
    return "\n".join(lines)


def readme_table(found: list[Report]) -> str:
    """A few of these rows, whatever their verdicts: decided claims, undecided ones, and separately exploratory ones."""
    chosen = [claim for report in found for claim in report.claims if (claim.study, report.claims.index(claim)) in HIGHLIGHTS]
    planned = [claim for claim in chosen if "exploratory" not in claim.verdict]
    lines = ["| published claim | verdict | the runs |", "| --- | --- | --- |"]
    lines += [_short(claim) for claim in sorted(planned, key=lambda claim: not claim.decided)]
    lines += ["", "Exploratory results, which confirm nothing:", "", *lines[:2]]
    return "\n".join([*lines, *(_short(claim) for claim in chosen if "exploratory" in claim.verdict)])


def _short(claim: Claim) -> str:
    """A row with one comparison and its interval, or with the first flag."""
    link = f"[{claim.verdict}](experiments/reports/{claim.study}/report.md)"
    if claim.flags:
        said = claim.flags.split("; ")[0]
    else:
        interval = re.search(r"alone ([^,)]*)\)", claim.evidence) or re.search(r"interval ([^,)]*)", claim.evidence)
        found = re.match(r"in (`[^`]*`), (.*?) \(|(the fitted exponent is [^ ]*)", claim.evidence)
        measured = f"in {found[1]}, {found[2]}" if found and found[1] else found and found[3]
        said = claim.evidence if found is None or interval is None else f"{measured} ({interval[1]})"
    excluded = "; the published size is excluded" if "is excluded" in claim.published else ""
    return f"| {claim.text} ({claim.source.partition(',')[0]}) | {link} | {said}{excluded} |"


def filled(text: str, made: str) -> str:
    """A file's text with new content between its markers."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n\n{made}\n\n{END}{rest.split(END, 1)[1]}"


def files() -> dict[Path, str]:
    """Each file's text as it should be."""
    found = reports()
    made = {ROOT / "RESULTS.md": results_table(found), ROOT.parent / "README.md": readme_table(found)}
    return {file: filled(file.read_text(encoding="utf-8"), text) for file, text in made.items()}


if __name__ == "__main__":
    for path, content in files().items():
        path.write_text(content, encoding="utf-8", newline="\n")
