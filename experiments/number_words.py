"""English number words to German: the default job, with data made on the spot."""

from transformer.config import Checkpoint, Config, Data, Evaluate, Model, Search, Train


def get_config() -> Config:
    return Config(
        model=Model(num_encoder_layers=2, num_decoder_layers=2, d_model=128, d_ff=512, num_heads=4, unroll=2),
        data=Data(vocabulary_size=128, batching="bucketed", buckets=4),
        train=Train(steps=500, batch_tokens=2048, schedule="linear", learning_rate=2e-3, warmup_steps=50, evaluate_every=100),
        evaluate=Evaluate(scores=("exact_match", "chrf")),
        search=Search(beam_size=1, batch_size=256),
        checkpoint=Checkpoint(every_steps=250),
    )
