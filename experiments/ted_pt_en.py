"""TED talks, Portuguese to English: TFDS's ted_hrlr_translate/pt_to_en, 51,785 training pairs.

    python launch.py --config=experiments/ted_pt_en.py --config.data.directory=DIR

DIR holds the data set, prepared as array_record (`tfds build ted_hrlr_translate/pt_to_en --file_format=array_record
--data_dir=DIR`, on a machine with TensorFlow and internet access). Not run yet.
"""

from transformer.config import Checkpoint, Config, Data, Model, Search, Train


def get_config() -> Config:
    return Config(
        model=Model(
            num_encoder_layers=4,
            num_decoder_layers=4,
            d_model=128,
            d_ff=512,
            num_heads=8,
            dropout_rate=0.2,
            norm_order="pre",
            unroll=4,
        ),
        data=Data(
            source="tfds",
            tfds_name="ted_hrlr_translate/pt_to_en",
            source_language="pt",
            target_language="en",
            vocabulary_size=8000,
            batching="bucketed",
        ),
        train=Train(steps=20_000, batch_tokens=4096, learning_rate=2e-3, warmup_steps=1000, evaluate_every=500),
        search=Search(beam_size=4),
        checkpoint=Checkpoint(every_steps=500, keep_last=5, best_metric="validation/nll"),
    )
