"""The tables of studies in RESULTS.md and README.md are those of the reports."""

from experiments.reports import tables as results


def test_the_tables_are_made_from_the_reports():
    for path, text in results.files().items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: run python -m experiments.reports.tables"


def test_what_restricts_a_verdict_is_told_with_it():
    found = results.reports()
    table, readme = results.results_table(found), results.readme_tables(found)
    decided, others = readme.split("Not decided, or exploratory:")
    claims = [claim for report in found for claim in report.claims]
    assert claims and len(table.splitlines()) == 2 + len(claims)
    for claim, line in zip(claims, table.splitlines()[2:], strict=True):
        assert f"| {claim.text} ({claim.source}) | **{claim.verdict}**" in line
        assert claim.flags in line and claim.published in line and ("not decided" in claim.verdict) == bool(claim.flags)
        assert f"/{claim.study}/" in (decided if claim.decided else others)
    assert "exploratory" not in decided and "not decided" not in decided
