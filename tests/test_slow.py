"""slow.txt names tests that exist: an entry that is left behind would hide that its test is fast again, or gone."""

from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_slow_tests_exist():
    for test in (ROOT / "tests" / "slow.txt").read_text().splitlines():
        file, _, name = test.partition("::")
        assert f"def {name.partition('[')[0]}(" in (ROOT / file).read_text(), test
