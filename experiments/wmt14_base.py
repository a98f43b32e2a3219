"""WMT14 English to German, the base model of "Attention Is All You Need" (Vaswani et al. 2017, Table 3, "base").

    python launch.py --config=experiments/wmt14_base.py --config.data.directory=DIR

DIR holds TFDS's wmt14_translate/de-en, prepared as array_record (`tfds build wmt14_translate/de-en
--file_format=array_record --data_dir=DIR`, on a machine with TensorFlow). For accelerators: 1.0e18 FLOPs by `--mode=describe`.
Not run yet: the published score is 27.3 BLEU on newstest2014, tokenised.
"""

from transformer.config import Checkpoint, Config, Data, Evaluate, Model, Search, Train


def get_config() -> Config:
    return Config(
        model=Model(),  # the defaults are the paper's base model
        data=Data(
            source="tfds",
            tfds_name="wmt14_translate/de-en",
            vocabulary_size=37_000,
            max_source_length=128,
            max_target_length=128,
            row_length=256,
            workers=2,
        ),
        train=Train(steps=100_000, batch_tokens=25_088, warmup_steps=4000, log_every=100, evaluate_every=2000),
        evaluate=Evaluate(average=5),
        search=Search(beam_size=4, length_penalty=0.6),
        checkpoint=Checkpoint(every_steps=1500, keep_last=5, best_metric="validation/nll"),
    )
