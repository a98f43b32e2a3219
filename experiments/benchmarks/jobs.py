"""Models of published sizes, batches for them, and what is timed: an update of ours and of torch's, and updates of many seeds.

bf16, parameters and Adam fp32, dropout 0.1. Transformer-big (d_model 1024, 16 heads, d_ff 4096, 6+6) reads rows of 512 slots,
each packed with texts of 32 tokens; decoders read rows of 1,024.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from experiments.benchmarks import train_step
from transformer.components.feed_forward import FeedForward
from transformer.components.positions import Learned
from transformer.config import Config, Data, DataInfo, Model, Objective, Parallel, Train

SEEDS = 8
ONE = Parallel(mode="jit")  # device
TOY = (2, 64, 2, 128, 500)


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
    rows, slots, entries = (2, 128, 500) if small else (48, 512, 37_000)
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


def family(name: str) -> Job:
    """A tiny model of a family, in fp32, to compare devices by."""
    kinds = {"decoder_only": "causal_lm", "encoder_only": "masked_lm"}
    model = Model(num_encoder_layers=1, num_decoder_layers=1, d_model=64, d_ff=128, num_heads=4)
    config = Config(
        family=name,  # pyright: ignore[reportArgumentType]
        objective=Objective(kinds.get(name, "translate")),  # pyright: ignore[reportArgumentType]
        model=model,
        data=Data(max_source_length=128, max_target_length=128),
        train=_train(4 * 128),
        parallel=ONE,
    )
    return Job(config, 4, 128, 128 if name == "recurrent" else 32, 100)


def batch(job: Job) -> Mapping[str, Any]:
    """Random tokens; no slot is padding."""
    import numpy as np

    rng, shape = np.random.default_rng(0), (job.rows, job.slots)
    own = np.broadcast_to(np.arange(job.slots, dtype=np.int32), shape)
    segments, positions = own // job.text + 1, own % job.text
    tokens = {name: rng.integers(3, job.entries, shape, np.int32) for name in ("inputs", "targets")}
    made = tokens | {"segments": segments, "positions": positions, "weights": np.ones(shape, np.float32)}
    if job.config.family != "decoder_only":
        made |= {"source": tokens["targets"][::-1], "source_segments": segments, "source_positions": positions}
    return made


def parts(job: Job) -> tuple[Any, Callable[[int], Any]]:
    """The update, not yet compiled, and a function that makes its state from a seed."""
    from transformer import families
    from transformer.data.tokenizers.vocabulary import Bytes

    fields = families.text_fields(families.task_of(job.config))
    data_info = dataclasses.replace(job.data_info, mask=3) if job.config.family == "encoder_only" else job.data_info
    return train_step.parts(
        job.config, data_info, families.make_objective(job.config, data_info, dict.fromkeys(fields, Bytes()))
    )


def ours(job: Job) -> Callable[[], None]:
    """An update as the trainer compiles it, on one device."""
    step, init = parts(job)
    return train_step.updates(job.config, step, lambda: init(0), batch(job))


def seeds(job: Job, together: bool) -> Callable[[], None]:
    """An update of each of `SEEDS` models, by one program, as with `--vmap_seeds`, or one after the other."""
    import jax
    import numpy as np

    from transformer.runtime.vmap_seeds import VmapSeeds

    step, init = parts(job)
    states, rows = {seed: init(seed) for seed in range(SEEDS)}, batch(job)
    one, stack = jax.jit(step, donate_argnums=0), VmapSeeds(step, jax.devices()[:1])

    def turn() -> None:
        if together:
            made = stack.update({seed: (state, rows) for seed, state in states.items()})
        else:
            made = {seed: one(state, rows) for seed, state in states.items()}
        states.update({seed: state for seed, (state, _) in made.items()})
        for _, metrics in made.values():
            float(np.asarray(metrics["loss_sum"]))

    return turn


def torch(job: Job) -> Callable[[], None]:
    """The same layers, bf16 by autocast, compiled, with torch's fused attention; embeddings tied, learned positions."""
    import torch  # pyright: ignore[reportMissingImports]

    device: Any = "cuda" if torch.cuda.is_available() else "cpu"
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
