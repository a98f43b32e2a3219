"""Algorithms on lists of letters, by a small Transformer: here copying, at the lengths of training and longer ones.

    python launch.py --config=experiments/algorithms.py

Trained on lists of 5 to 20 letters for 500 updates, seed 0 copies 95.7 % of unseen lists of these lengths (99.2 % of letters in
the right position) and 1.6 % (61.4 %) of lists of 21 to 40; 403 s at low priority beside other work, 160 s of processor time.
Other algorithms: --config.data.algorithm=reverse, sort, list, recall, addition.
"""

from transformer.config import Checkpoint, Config, Data, Evaluate, Model, Search, Train


def get_config() -> Config:
    return Config(
        model=Model(num_encoder_layers=2, num_decoder_layers=2, d_model=128, d_ff=512, num_heads=4, unroll=2),
        data=Data(source="algorithms", algorithm_test_lengths=(5, 40), vocabulary_size=200, batching="bucketed", buckets=4),
        train=Train(steps=500, batch_tokens=2048, schedule="linear", learning_rate=2e-3, warmup_steps=50, evaluate_every=100),
        evaluate=Evaluate(scores=("exact_match", "word_accuracy"), lengths=(5, 21, 41)),
        search=Search(beam_size=1, batch_size=256, max_extra=10),
        checkpoint=Checkpoint(every_steps=250),
    )
