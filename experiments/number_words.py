"""English number words to German: the default job, whose data are generated.

    python launch.py

It trains on 32,000 numbers below a million, about once on each. These include all numbers below 100 (40 copies of each),
because they are what a person types first, and too few to be held out. It is scored on 2,000 other numbers with three to six
digits in about equal parts (but at most an eighth of the 900 numbers with three digits). With a vocabulary of 128, tokens are
about as long as number words, so that the cross-attention map shows which word is being translated.
"""

import dataclasses

from transformer.config import Checkpoint, Config, Data, Evaluate, Model, Search, Train

NUMBERS = Data(  # 40,000 numbers, of which 2,000 are copies of those below 100; for the jobs that train longer
    vocabulary_size=128,
    batching="packed",
    number_test_range=(100, 1_000_000),
    number_train_by_digits=0.5,
    number_small_copies=20,
    number_test_by_digits=1.0,
)


def get_config() -> Config:
    return Config(
        model=Model(num_encoder_layers=2, num_decoder_layers=2, d_model=128, d_ff=512, num_heads=4, dropout_rate=0.0, unroll=2),
        data=dataclasses.replace(NUMBERS, number_train_size=32_000, number_small_copies=40),
        train=Train(
            steps=160,
            batch_tokens=2048,
            schedule="linear",
            learning_rate=4e-3,
            warmup_steps=40,
            label_smoothing=0.0,  # nor dropout: hardly an example is seen twice, so that there is nothing to regularise
            evaluate_every=40,
        ),
        evaluate=Evaluate(scores=("exact_match", "chrf")),
        search=Search(beam_size=1, batch_size=256),
        checkpoint=Checkpoint(every_steps=80),
    )
