"""Multi30k, English to German, tokenised and lowercased, about the size of the published Transformer-Tiny.

    python launch.py --config=experiments/multi30k.py --config.data.directory=DIR

DIR holds train.*, val.* and test_2016_flickr.* (multi30k/dataset). To beat: 41.02 BLEU on test_2016_flickr with 2.6 M
parameters. Seed 0, nrefs:1|case:mixed|eff:no|tok:none|smooth:exp|version:2.6.0, on test_2016_flickr and validation:

    --config.data.vocabulary_size=6000 (2.1 M parameters)                            39.66  40.53  69 min
    --config.data.segmentations=8 --config.data.segmentation_rate=0.05 (2.6 M)       40.52  40.06  78 min

on two cores that did other work too. Not there yet: RESULTS.md has what is known.
"""

from transformer.config import Checkpoint, Config, Data, Evaluate, Model, Search, Train


def get_config() -> Config:
    return Config(
        model=Model(
            num_encoder_layers=4,
            num_decoder_layers=4,
            d_model=128,
            d_ff=256,
            num_heads=4,
            dropout_rate=0.3,
            norm_order="pre",
            unroll=4,
        ),
        data=Data(
            source="text",
            train="train",
            validation="val",
            test="test_2016_flickr",
            vocabulary="bpe",
            vocabulary_size=10_000,
            batching="bucketed",
            buckets=8,
        ),
        train=Train(
            steps=6000, batch_tokens=4096, learning_rate=0.004, warmup_steps=600, schedule="linear", evaluate_every=200
        ),
        evaluate=Evaluate(scores=("bleu", "chrf"), bleu_tokenize="none", average=10),
        search=Search(beam_size=5, length_penalty=1.0),
        checkpoint=Checkpoint(every_steps=200, keep_last=10, best_metric="validation/nll"),
    )
