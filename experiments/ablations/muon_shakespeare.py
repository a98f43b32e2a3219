"""Does Muon learn faster than AdamW, both at their own best learning rates? On characters of Shakespeare. Jordan 2024.

    python launch.py --mode=ablate --config=experiments/ablations/muon_shakespeare.py --workdir=runs/muon_shakespeare \\
        --config.base.data.directory=DIR

DIR holds input.txt (karpathy/char-rnn's tinyshakespeare), as for `shakespeare.py`, whose model and schedule this has, with
gradients that are not clipped: Muon's updates have the same size whatever the gradients. `muon.py` asks the same about
translations of Multi30k. Updates until a validation loss of 1.8 nats a character are counted, on the last 5 % of the text,
every 100 updates.

Two runs at a time on two cores of an AMD EPYC, each with one, Python 3.11, JAX 0.10.2: 26 runs in 51 minutes, beside a little
other work. Muon reaches 1.8 nats after 960 updates, AdamW after 1,340 (means of seeds 0 to 4; difference 380, 95 % interval 286
to 474), and its best validation loss is 1.625, AdamW's 1.720 (difference 0.096, 0.080 to 0.111). Both claims agree. Muon is
less sensitive to the learning rate, too: in the search its loss varies by 0.05 nats over a factor of eight, AdamW's by 0.2. But
a run with Muon takes 4.0 minutes and one with AdamW 3.0 (medians), so on a CPU, at this small width, the time until 1.8 nats
is about the same. See `experiments/reports/muon_shakespeare`.
"""

from experiments import shakespeare
from transformer.settings import override
from transformer.studies.study import Claim, Metric, Study

UNTIL = Metric("validation/nll", "lower", take="updates", target=1.8)


def get_study() -> Study:
    source = "Jordan 2024; Liu et al. 2025, section 3.2"
    changes = {
        "train.clip_norm": "none",
        "train.evaluate_every": "100",
        "data.validation": "input.txt[95%:]",
        "evaluate.stride": "none",
        "evaluate.samples": "1",
        "search.max_new_tokens": "64",
    }
    return Study(
        question="Does Muon learn faster than AdamW, both tuned, on Shakespeare?",
        claims=(
            Claim("Muon reaches a loss after fewer updates.", source, "better", ("Muon",), metric=UNTIL.label),
            Claim("Muon ends at a lower loss after equally many updates.", source, "better", ("Muon",)),
        ),
        base=override(shakespeare.get_config(), changes),
        arms={"AdamW": {}, "Muon": {"train.optimizer": "muon"}},
        metrics=(Metric("validation/nll", "lower", take="best"), UNTIL),
        compare_with="AdamW",
        seeds=5,
        learning_rates=(1.5e-3, 3e-3, 6e-3, 1.2e-2),
        fair=("steps", "tokens", "parameters"),
    )
