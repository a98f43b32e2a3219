"""How many operations does a token cost, by length? As parallelism.py; Vaswani et al. 2017, Table 1.

    python launch.py --mode=ablate --config=experiments/ablations/parallelism_operations.py --workdir=runs/operations

The table has O(n^2 d) for a layer of self-attention and O(n d^2) for a recurrent one: a token's share is O(n d) and O(d^2).
Here all products of a model are counted, forward and backward, so what goes by n stands on what does not. Both claims hold
(reports/parallelism_operations): 2,304 n more by a Transformer of d_model 64. The runs are parallelism.py's.
"""

from experiments.ablations.parallelism import constant, exponent, study
from transformer.studies.study import Study


def get_study() -> Study:
    return study(
        "How many operations does a token cost, by length?",
        (
            exponent("A layer of self-attention costs O(n^2 d): a token's share grows as n.", "Transformer"),
            constant("A recurrent layer costs O(n d^2): a token's share does not grow.", "recurrent", 20_000.0),
        ),
        "recurrent",
        first=1,
    )
