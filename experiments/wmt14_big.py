"""WMT14 English to German, the big model of "Attention Is All You Need" (Vaswani et al. 2017, Table 3, "big").

    python launch.py --config=experiments/wmt14_big.py --config.data.directory=DIR

Data as for wmt14_base.py. As in the paper, 20 checkpoints are averaged that lie ten minutes of its training apart (5.2, 6.1).
Not run yet: the published score is 28.4 BLEU on newstest2014, tokenised.
"""

from transformer.config import Checkpoint, Config, Data, Evaluate, Model, Search, Train


def get_config() -> Config:
    return Config(
        model=Model(d_model=1024, d_ff=4096, num_heads=16, dropout_rate=0.3),
        data=Data(
            source="tfds",
            tfds_name="wmt14_translate/de-en",
            vocabulary_size=37_000,
            max_source_length=128,
            max_target_length=128,
            row_length=256,
            workers=2,
        ),
        train=Train(steps=300_000, batch_tokens=25_088, warmup_steps=4000, log_every=100, evaluate_every=2000),
        evaluate=Evaluate(average=20),
        search=Search(beam_size=4, length_penalty=0.6),
        checkpoint=Checkpoint(every_steps=600, keep_last=20, best_metric="validation/nll"),
    )
