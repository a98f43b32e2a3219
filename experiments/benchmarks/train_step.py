"""One update of the paper's model, against `torch.nn.Transformer`, eager and compiled.

    python -m experiments.benchmarks.train_step

Batch 64, source 32, target 32, d_model 256, 4 heads, 3+3 layers, d_ff 1024, vocabulary 8,000, dropout 0.1, smoothing 0.1, Adam,
tied embeddings; fp32, bf16 (torch: autocast), and fp32 with products of bf16 factors (ours alone: PyTorch 2.13 computes them in
fp32 on a CPU with AVX-512 BF16, also with the matmul precision "medium"). Where dropout's bits come from: ours
`dropout_generator` (the default, a hash), torch's its own (a Mersenne twister on a CPU).
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from experiments.benchmarks import race
from experiments.benchmarks.race import Contender
from transformer.config import Config, DataInfo, Model, Train
from transformer.runtime.memory import keep_freed_memory

B, S, T, V = 64, 32, 32, 8000
MODEL = Model(num_encoder_layers=3, num_decoder_layers=3, d_model=256, d_ff=1024, num_heads=4, unroll=3)
TRAIN = Train(batch_tokens=B * T, learning_rate=1e-4, schedule="constant", warmup_steps=0)
CONFIG, DATA_INFO = Config(model=MODEL, train=TRAIN), DataInfo(source_size=V, target_size=V, source_rows=V, target_rows=V)


def parts(config: Config, data_info: DataInfo, objective: Any) -> tuple[Any, Callable[[int], Any]]:
    """The trainer's own step, not yet compiled, and a function that makes its state from a seed."""
    from transformer import families
    from transformer.training import trainer

    model = families.FAMILIES[config.family].model(config, data_info)
    _, step, begin = trainer.make(config, data_info, model)
    return step, lambda seed: begin(families.init_params(model, objective, seed))


def build(config: Config, rows: int = B) -> tuple[Any, Any, Any]:
    """As `parts`, the state of seed 0; and a batch of `rows` rows of tokens without padding."""
    import numpy as np

    from transformer.data.objectives import Translate

    step, init = parts(config, DATA_INFO, Translate(S, T))
    rng, sides = np.random.default_rng(0), {"source": S, "inputs": T, "targets": T}
    batch = {name: rng.integers(3, V, (rows, length), np.int32) for name, length in sides.items()}
    batch |= {"source_segments": np.ones((rows, S), np.int32), "segments": np.ones((rows, T), np.int32)}
    batch |= {"weights": np.ones((rows, T), np.float32)}
    return step, lambda: init(0), batch


def ours(config: Config = CONFIG) -> Callable[[], None]:
    """Updates without padding."""
    keep_freed_memory()
    return updates(config, *build(config))


def updates(config: Config, train_step: Any, init: Callable[[], Any], batch: Any, runtime: Any = None) -> Callable[[], None]:
    """A turn is an update, compiled as the trainer compiles it, on the devices of `runtime` (none: on those of `config`)."""
    import jax

    from transformer.runtime.devices import Runtime

    runtime = runtime or Runtime(config.parallel)
    step, made = runtime.compile_train(train_step), [runtime.create(init)]

    def turn() -> None:
        made[0], metrics = step(made[0], runtime.place_batch(batch))
        jax.block_until_ready(metrics)

    return turn


def torch(compiled: bool, half: bool = False) -> Callable[[], None]:
    """Its updates without padding; `half`: under autocast, in bf16."""
    model, optimizer, loss_of = torch_parts(CONFIG, V, max(S, T))
    import torch  # pyright: ignore[reportMissingImports]

    source, inputs, targets = (torch.randint(3, V, (B, length)) for length in (S, T, T))

    def loss() -> Any:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            return loss_of(model(source, inputs), targets)

    run = torch.compile(loss) if compiled else loss

    def turn() -> None:
        optimizer.zero_grad(set_to_none=True)
        run().backward()
        optimizer.step()

    return turn


def torch_parts(config: Config, entries: int, longest: int) -> tuple[Any, Any, Callable[[Any, Any], Any]]:
    """`torch.nn.Transformer` with the same sizes, embeddings tied three ways and sinusoids: a model of (source, inputs, where
    the source is padding or None); Adam; the same loss of (logits, targets), of which -100 is none."""
    import os

    import torch  # pyright: ignore[reportMissingImports]

    torch.manual_seed(0)
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    m, train = config.model, config.train

    class Translator(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = torch.nn.Transformer(
                m.d_model, m.num_heads, m.num_encoder_layers, m.num_decoder_layers, m.d_ff, m.dropout_rate, batch_first=True
            )
            self.embed = torch.nn.Embedding(entries, m.d_model)
            torch.nn.init.normal_(self.embed.weight, std=m.d_model**-0.5)
            angles = torch.arange(longest)[:, None] / 10000 ** (torch.arange(0, m.d_model, 2) / m.d_model)
            sinusoids = torch.stack([angles.sin(), angles.cos()], -1).flatten(1)
            self.register_buffer("sinusoids", sinusoids)
            self.register_buffer("causal", torch.nn.Transformer.generate_square_subsequent_mask(longest))
            self.dropout = torch.nn.Dropout(m.dropout_rate)

        def read(self, ids_BxT: Any) -> Any:
            return self.dropout(self.embed(ids_BxT) * m.d_model**0.5 + self.sinusoids[: ids_BxT.shape[1]])

        def forward(self, source_BxS: Any, inputs_BxT: Any, padding_BxS: Any = None) -> Any:
            causal = self.causal[: inputs_BxT.shape[1], : inputs_BxT.shape[1]]
            states = self.body(
                self.read(source_BxS),
                self.read(inputs_BxT),
                tgt_mask=causal,
                tgt_is_causal=True,
                src_key_padding_mask=padding_BxS,
                memory_key_padding_mask=padding_BxS,
            )
            return states @ self.embed.weight.T

    model = Translator().train()
    optimizer = torch.optim.Adam(model.parameters(), train.learning_rate, (train.beta1, train.beta2), 1e-9)
    criterion = torch.nn.CrossEntropyLoss(label_smoothing=train.label_smoothing)
    return model, optimizer, lambda logits, targets: criterion(logits.flatten(0, 1), targets.flatten())


def main() -> None:
    """Races them and prints the table."""
    asked = race.arguments(__doc__).parse_args()
    from transformer.training import costs

    found = costs.count(CONFIG, DATA_INFO, [S, T])
    work = {"target tokens/s": B * T, "FLOP/s": found.training_flops * B * T}
    looped, half, rounded = (
        dataclasses.replace(CONFIG, model=dataclasses.replace(MODEL, **changes))
        for changes in ({"unroll": 1}, {"dtype": "bfloat16"}, {"matmul_dtype": "bfloat16"})
    )
    contenders = {
        "ours, unroll=3": Contender(ours, (CONFIG,), work),
        "ours, unroll=1": Contender(ours, (looped,), work),
        "ours, bf16": Contender(ours, (half,), work),
        "ours, bf16 products": Contender(ours, (rounded,), work),
        "torch.nn.Transformer": Contender(torch, (False,), work),
        "torch.nn.Transformer, compiled": Contender(torch, (True,), work),
        "torch.nn.Transformer, bf16": Contender(torch, (False, True), work),
        race.PEAK: Contender(race.peak, (), {"FLOP/s": race.PEAK_FLOPS}),
    }
    times = race.take_turns(contenders, asked.rounds, 2, asked.threads)
    race.report(f"One update, batch {B}, source {S}, target {T}", times, contenders, asked.threads, asked.output)


if __name__ == "__main__":
    main()
