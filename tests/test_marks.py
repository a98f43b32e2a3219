"""The entries of slow.txt and thorough.txt are existing tests: an outdated entry would hide that its test is gone."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("mark", ["slow", "thorough"])
def test_tests_with_a_mark_exist(mark):
    for test in (ROOT / "tests" / f"{mark}.txt").read_text().splitlines():
        file, _, name = test.partition("::")
        assert f"def {name.partition('[')[0]}(" in (ROOT / file).read_text(), test
