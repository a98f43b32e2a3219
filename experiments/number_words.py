"""English number words to German: the default job, with data made on the spot.

    python launch.py

40,000 of the 1,000,000 numbers below a million to train on, 2,000 others to score. Seeds 0-4: 99.70 to 99.95 % exact match
after 240 updates; 92 s on two cores (seed 0). A vocabulary of 128 has pieces of the size of number words, so that the
cross-attention map shows which word is being translated.
"""

from transformer.config import Checkpoint, Config, Data, Evaluate, Model, Search, Train


def get_config() -> Config:
    return Config(
        model=Model(num_encoder_layers=2, num_decoder_layers=2, d_model=128, d_ff=512, num_heads=4, unroll=2),
        data=Data(vocabulary_size=128, batching="packed"),
        train=Train(steps=240, batch_tokens=2048, schedule="linear", learning_rate=2e-3, warmup_steps=50, evaluate_every=100),
        evaluate=Evaluate(scores=("exact_match", "chrf")),
        search=Search(beam_size=1, batch_size=256),
        checkpoint=Checkpoint(every_steps=120),
    )
