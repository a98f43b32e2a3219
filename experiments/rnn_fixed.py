"""Number words with one fixed vector: two LSTM layers and a reversed source (Sutskever et al. 2014).

    python launch.py --config=experiments/rnn_fixed.py

Seed 0: 99.95 % of 2,000 unseen numbers right, 99.9 % or more with each number of digits, and 99.0 % of the numbers below 100,
which are training numbers; 141 s of processor time. The data are `number_words.NUMBERS`, in padded batches.
Cho et al. 2014: --config.model.recurrent.cell=gru --config.model.recurrent.context=every_step
--config.model.num_encoder_layers=1 --config.model.num_decoder_layers=1.
"""

import dataclasses

from experiments.number_words import NUMBERS
from transformer.config import Checkpoint, Config, Evaluate, Model, Recurrent, Search, Train


def get_config() -> Config:
    return Config(
        family="recurrent",
        model=Model(
            num_encoder_layers=2,
            num_decoder_layers=2,
            d_model=128,
            recurrent=Recurrent(cell="lstm", attention="none", context="initial", bidirectional=False, reverse_source=True),
        ),
        data=dataclasses.replace(NUMBERS, batching="bucketed", buckets=4),
        train=Train(
            steps=500,
            batch_tokens=2048,
            schedule="linear",
            learning_rate=3e-3,
            warmup_steps=50,
            clip_norm=1.0,
            evaluate_every=100,
        ),
        evaluate=Evaluate(scores=("exact_match", "chrf")),
        search=Search(beam_size=1, batch_size=256),
        checkpoint=Checkpoint(every_steps=250),
    )
