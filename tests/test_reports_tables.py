"""The tables of studies in RESULTS.md and README.md are those of the reports."""

from experiments.reports import tables as results


def test_the_tables_are_made_from_the_reports():
    for path, text in results.files().items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: run python -m experiments.reports.tables"


def test_restrictions_of_a_verdict_are_printed_with_it():
    found = results.reports()
    table, readme = results.results_table(found), results.readme_table(found)
    claims = [claim for report in found for claim in report.claims]
    rows = [claim for report in found for claim in (report.claims[:1] if report.in_one_row else report.claims)]
    assert claims and len(table.splitlines()) == 2 + len(rows)
    for claim, line in zip(rows, table.splitlines()[2:], strict=True):
        if next(report for report in found if report.study == claim.study).in_one_row:
            assert (
                f"claims ({claim.source}) | **none is decided by this study**; the first, {claim.verdict}: {claim.flags} |"
                in line
            )
            continue
        assert f"| {claim.text} ({claim.source}) | **{claim.verdict}**" in line
        assert claim.flags in line and claim.published in line and ("not decided" in claim.verdict) == bool(claim.flags)
    planned, exploratory = readme.split("Exploratory")
    shown = [claim for claim in claims if f"| {claim.text} (" in readme]
    assert 3 <= len(shown) <= 8 and any(claim.decided for claim in shown) and not all(claim.decided for claim in shown)
    for claim in shown:
        assert f"[{claim.verdict}]" in (exploratory if "exploratory" in claim.verdict else planned)
        assert claim.flags.split("; ")[0] in readme
        assert ("the published size is excluded" in readme) or "is excluded" not in claim.published
