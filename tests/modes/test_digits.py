"""Scores of number words by digits, for outputs with known errors."""

from transformer import settings
from transformer.config import Config, Data
from transformer.modes import digits

DATA = Data(
    number_range=(0, 2000),
    number_test_range=(100, 2000),
    number_train_size=500,
    number_test_size=40,
    number_train_by_digits=1.0,
)
EXAMPLES = [{"number": str(n), "source": "", "target": f"t{n}"} for n in (*range(100, 110), *range(1000, 1020), 20_000)]


def test_scores_by_digits_and_of_trained_numbers():
    def translate(examples):
        asked.extend(example["source"] for example in examples)
        return [example["target"] if example["source"] != "four" else "fünf" for example in examples]

    asked: list[str] = []
    outputs = [example["target"] if example["number"] != "1001" else "?" for example in EXAMPLES]
    found = digits.of_split(DATA, translate, EXAMPLES, outputs)
    assert found == {"exact_match@3_digits": 100.0, "exact_match@4_digits": 95.0, "exact_match@trained_below_100": 99.0}
    assert len(asked) == 100 and asked[4] == "four"
    assert set(found) <= set(digits.names(Config(data=DATA)))


def test_nothing_of_other_data():
    assert digits.names(settings.replace(Config(), "data.source", "text")) == []
    assert digits.of_split(Data(source="text"), lambda examples: [], [], []) == {}
