"""All that is to be measured on an accelerator, in one call: Transformer-big, decoders of 350 M and 1.3 B, seeds side by side.

    python -m experiments.benchmarks.accelerator [--small] [--output=PREFIX]

Not run on one yet. bf16, parameters and Adam fp32, dropout 0.1. Transformer-big (d_model 1024, 16 heads, d_ff 4096, 6+6) reads
rows of 512 slots, each packed with texts of 32 tokens; decoders read rows of 1,024. Ours with each backend of attention and
rule of remat, against the same layers of torch (`torch.compile`, its fused attention), which are given whole rows without a
mask of segments. The share is of the device's published peak (`runtime/devices.py`; of a CPU, measured), its MFU. Seeds: eight
small decoders trained by one program (`--vmap_seeds`), against one after the other. --small: the same at sizes that a laptop
does, to see that all of it runs; its times but the seeds' say nothing.
"""

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any

from experiments.benchmarks import race, train_step
from experiments.benchmarks.race import Contender
from transformer.components.feed_forward import FeedForward
from transformer.components.positions import Learned
from transformer.config import Config, Data, DataInfo, Model, Objective, Parallel, Train

SEEDS = 8
ONE = Parallel(mode="jit")  # device
TOY = (2, 64, 2, 64, 500)


@dataclasses.dataclass(frozen=True)
class Job:
    """A configuration, and batches of `rows` rows of `slots`, packed with texts of `text` tokens."""

    config: Config
    rows: int
    slots: int
    text: int
    entries: int

    @property
    def data_info(self) -> DataInfo:
        return DataInfo(self.entries, self.entries, self.entries, self.entries)

    @property
    def tokens(self) -> int:
        return self.rows * self.slots

    @property
    def flops(self) -> float:
        """Of an update, as `--mode=describe` counts: attention of texts to themselves, not of whole rows."""
        from transformer.training import costs

        encodes = self.config.family == "encoder_decoder"
        found = costs.count(self.config, self.data_info, [self.text] * (1 + encodes))
        return found.training_flops * self.tokens


def translator(small: bool) -> Job:
    """Transformer-big."""
    sizes: dict[str, Any] = {"d_model": 1024, "d_ff": 4096, "num_heads": 16, "num_encoder_layers": 6, "num_decoder_layers": 6}
    if small:
        sizes = {"d_model": 64, "d_ff": 256, "num_heads": 4, "num_encoder_layers": 2, "num_decoder_layers": 2}
    model = Model(**sizes, dtype="bfloat16")
    rows, slots, entries = (2, 64, 500) if small else (48, 512, 37_000)
    return Job(Config(model=model, train=_train(rows * slots), parallel=ONE), rows, slots, 32, entries)


def decoder(layers: int, width: int, rows: int, slots: int, entries: int) -> Job:
    """A GPT."""
    model = Model(
        num_decoder_layers=layers,
        d_model=width,
        d_ff=4 * width,
        num_heads=max(width // 128, 1),
        norm_order="pre",
        feed_forward=FeedForward(activation="gelu_tanh"),
        positions=Learned(size=slots),
        tying="two_way",
        dtype="bfloat16",
    )
    data = Data(source="documents", max_target_length=slots, row_length=slots)
    train, objective = _train(rows * slots), Objective("causal_lm")
    config = Config(family="decoder_only", objective=objective, model=model, data=data, train=train, parallel=ONE)
    return Job(config, rows, slots, slots, entries)


def _train(tokens: int) -> Train:
    return Train(batch_tokens=tokens, learning_rate=1e-4, schedule="constant", warmup_steps=0)


def _batch(job: Job) -> Mapping[str, Any]:
    """Random tokens; no slot is padding."""
    import numpy as np

    rng, shape = np.random.default_rng(0), (job.rows, job.slots)
    own = np.broadcast_to(np.arange(job.slots, dtype=np.int32), shape)
    segments, positions = own // job.text + 1, own % job.text
    tokens = {name: rng.integers(3, job.entries, shape, np.int32) for name in ("inputs", "targets")}
    batch = tokens | {"segments": segments, "positions": positions, "weights": np.ones(shape, np.float32)}
    if job.config.family == "encoder_decoder":
        batch |= {"source": tokens["targets"][::-1], "source_segments": segments, "source_positions": positions}
    return batch


def _parts(job: Job) -> tuple[Any, Callable[[int], Any]]:
    from transformer.data.objectives import CausalLM, Translate

    objective = CausalLM(job.slots) if job.config.family == "decoder_only" else Translate(job.slots, job.slots)
    return train_step.parts(job.config, job.data_info, objective)


def ours(job: Job) -> Callable[[], None]:
    """An update as the trainer compiles it, on one device."""
    step, init = _parts(job)
    return train_step.updates(job.config, step, lambda: init(0), _batch(job))


def seeds(job: Job, together: bool) -> Callable[[], None]:
    """An update of each of `SEEDS` models, by one program, as with `--vmap_seeds`, or one after the other."""
    import jax
    import numpy as np

    from transformer.runtime.vmap_seeds import VmapSeeds

    step, init = _parts(job)
    states, batch = {seed: init(seed) for seed in range(SEEDS)}, _batch(job)
    one, stack = jax.jit(step, donate_argnums=0), VmapSeeds(step, jax.devices()[:1])

    def turn() -> None:
        if together:
            made = stack.update({seed: (state, batch) for seed, state in states.items()})
        else:
            made = {seed: one(state, batch) for seed, state in states.items()}
        states.update({seed: state for seed, (state, _) in made.items()})
        for _, metrics in made.values():
            float(np.asarray(metrics["loss_sum"]))

    return turn


def torch(job: Job) -> Callable[[], None]:
    """The same layers, bf16 by autocast, compiled, with torch's fused attention; embeddings tied, learned positions."""
    import torch  # pyright: ignore[reportMissingImports]

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    m, encodes = job.config.model, job.config.family == "encoder_decoder"
    kinds = {"dim_feedforward": m.d_ff, "dropout": m.dropout_rate, "batch_first": True}

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = torch.nn.Embedding(job.entries, m.d_model)
            self.positions = torch.nn.Embedding(job.slots, m.d_model)
            if encodes:
                self.body = torch.nn.Transformer(m.d_model, m.num_heads, m.num_encoder_layers, m.num_decoder_layers, **kinds)
            else:
                layer = torch.nn.TransformerEncoderLayer(m.d_model, m.num_heads, activation="gelu", norm_first=True, **kinds)
                self.body = torch.nn.TransformerEncoder(layer, m.num_decoder_layers, enable_nested_tensor=False)

        def read(self, ids_BxT: Any) -> Any:
            return self.embed(ids_BxT) * m.d_model**0.5 + self.positions.weight[: ids_BxT.shape[1]]

        def forward(self, source_BxT: Any, inputs_BxT: Any, causal: Any) -> Any:
            x = self.read(inputs_BxT)
            if encodes:
                return self.body(self.read(source_BxT), x, tgt_mask=causal, tgt_is_causal=True) @ self.embed.weight.T
            return self.body(x, mask=causal, is_causal=True) @ self.embed.weight.T

    model = Network().to(device).train()
    optimizer = torch.optim.Adam(model.parameters(), 1e-4, fused=device == "cuda")
    criterion = torch.nn.CrossEntropyLoss(label_smoothing=job.config.train.label_smoothing)
    tokens = [torch.randint(3, job.entries, (job.rows, job.slots), device=device) for _ in range(3)]
    causal = torch.nn.Transformer.generate_square_subsequent_mask(job.slots, device=device)

    def loss() -> Any:
        with torch.autocast(device, torch.bfloat16):
            return criterion(model(tokens[0], tokens[1], causal).flatten(0, 1), tokens[2].flatten())

    run = torch.compile(loss)

    def turn() -> None:
        optimizer.zero_grad(set_to_none=True)
        run().backward()
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    return turn


def main() -> None:
    """Prints a table for each job."""
    parser = race.arguments(__doc__)
    parser.add_argument("--small", action="store_true", help="toy sizes: does it run?")
    asked = parser.parse_args()
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # contenders share the device's memory
    jobs = {
        "Transformer-big, packed rows of 512": translator(asked.small),
        "decoder of 350 M, rows of 1,024": decoder(*(TOY if asked.small else (24, 1024, 16, 1024, 50_304))),
        "decoder of 1.3 B, rows of 1,024": decoder(*(TOY if asked.small else (24, 2048, 4, 1024, 50_304))),
    }
    for number, (title, job) in enumerate(jobs.items()):
        work = {"tokens/s": job.tokens, "FLOP/s": job.flops}
        contenders = {}
        for backend in ("fused", "plain"):
            for remat in ("none", "dots", "full"):
                model = dataclasses.replace(job.config.model, attention_backend=backend, remat=remat)
                changed = dataclasses.replace(job, config=dataclasses.replace(job.config, model=model))
                contenders[f"ours, attention {backend}, remat {remat}"] = Contender(ours, (changed,), work)
        contenders["torch, compiled"] = Contender(torch, (job,), work)
        _race(title, contenders, asked, number)
    small = decoder(2, 64, 8, 64, 500)
    work = {"tokens/s": SEEDS * small.tokens}
    pair = {name: Contender(seeds, (small, together), work) for name, together in (("side by side", True), ("in turn", False))}
    _race(f"{SEEDS} seeds of a small decoder", pair, asked, len(jobs))


def _race(title: str, contenders: Mapping[str, Contender], asked: Any, number: int) -> None:
    """Those that the device's memory does not hold are left out, and it says so."""
    import jax

    from transformer.runtime.devices import peak_flops

    times = race.take_turns(contenders, asked.rounds, 3, asked.threads)
    output, peak = asked.output and f"{asked.output}.{number}.json", peak_flops(jax.devices()[:1])
    race.report(title, times, contenders, asked.threads, output, peak)


if __name__ == "__main__":
    main()
