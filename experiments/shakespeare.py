"""Characters of Shakespeare's plays, by a small GPT of the shape that nanoGPT trains on a CPU.

    python launch.py --config=experiments/shakespeare.py --config.data.directory=DIR

DIR holds input.txt (karpathy/char-rnn's tinyshakespeare); the first 90 % are for training and the last 10 % for validation.
Training sees as many tokens as nanoGPT's: 2,000 updates of 12 rows of 64. Its learning rate is 3e-3 instead of 1e-3 and falls
to 0 instead of 1e-4, and positions are rotary instead of learned. Nats per character of the whole validation split in blocks of
64 that do not overlap, seeds 0 to 2: 1.688, 1.679, 1.693 (nanoGPT's README: 1.88, on some random blocks; its code, commit
3adf61e1 with PyTorch 2.13.0 and three seeds, scored on the same blocks: 1.898, 1.898, 1.906). With a sliding window that moves
by 16: 1.655, 1.644, 1.659. 139 s on two cores (seed 2).
"""

from experiments.shapes import small
from transformer.config import Checkpoint, Config, Data, Evaluate, Objective, Search, Train


def get_config() -> Config:
    return Config(
        family="decoder_only",
        objective=Objective(kind="causal_lm"),
        model=small.gpt(4, dropout_rate=0.0),
        data=Data(
            source="documents",
            document="file",
            train="input.txt[:90%]",
            validation="input.txt[90%:]",
            test=None,
            vocabulary="characters",
            max_target_length=64,
            row_length=64,
        ),
        train=Train(
            steps=2000,
            batch_tokens=12 * 64,
            optimizer="adamw",
            learning_rate=3e-3,
            schedule="cosine",
            warmup_steps=100,
            beta2=0.99,
            epsilon=1e-8,
            weight_decay=0.1,
            clip_norm=1.0,
            label_smoothing=0.0,
            evaluate_every=500,
        ),
        evaluate=Evaluate(samples=2, stride=16),
        search=Search(temperature=0.8, top_k=200, max_new_tokens=500),
        checkpoint=Checkpoint(every_steps=1000),
    )
