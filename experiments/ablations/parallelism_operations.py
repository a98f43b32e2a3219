"""How many operations does each token cost, by length? As parallelism.py; Vaswani et al. 2017, Table 1.

    python launch.py --mode=ablate --config=experiments/ablations/parallelism_operations.py --workdir=runs/operations

The table has O(n^2 d) for a self-attention layer and O(n d^2) for a recurrent one, which is O(n d) and O(d^2) for each token.
Here all matrix products of a model are counted, forward and backward, so that the term proportional to n is added to a constant
one. The runs agree with both claims (reports/parallelism_operations): the term is 2,304 n for a Transformer of d_model 64. The
runs are those of parallelism.py.
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
