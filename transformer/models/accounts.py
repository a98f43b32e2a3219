"""What a whole model costs: parameters by module, FLOPs by component, bytes; and that as a table.

The parts are `accounting.py`.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from transformer.config import Config, Facts, Model, Train
from transformer.errors import counted
from transformer.models import accounting
from transformer.models.accounting import Work, projection
from transformer.models.recurrent import RecurrentEncoderDecoder
from transformer.models.transformer import DecoderOnly, EncoderDecoder, EncoderOnly, Heads

TYPICAL_ROW = 64  # tokens of a row where the configuration leaves it to the data


@dataclasses.dataclass(frozen=True)
class Account:
    """What a configuration costs."""

    given: str  # what was assumed: sizes of vocabularies, lengths
    parameters: dict[str, int]  # by module
    row: dict[str, Work]  # a forward pass of one row of a batch, by component
    tokens: int  # target tokens of that row
    loss: float  # FLOPs, of that row
    update: float  # FLOPs, of one update
    bytes: dict[str, int]
    train: Train

    @property
    def size(self) -> int:
        return sum(self.parameters.values())

    @property
    def size_without_embeddings(self) -> int:
        """Without the tables of vocabularies, a tied output among them."""
        return sum(count for name, count in self.parameters.items() if not name.endswith("embedding"))

    @property
    def forward_flops(self) -> float:
        """Per target token."""
        return sum(work.forward for work in self.row.values()) / self.tokens

    @property
    def training_flops(self) -> float:
        """Per target token: forward, backward, loss, and its share of an update."""
        row = sum(work.training for work in self.row.values()) + self.loss
        return row / self.tokens + self.update / self.train.batch_tokens

    @property
    def total_flops(self) -> float:
        """Of the whole training."""
        return self.training_flops * self.train.batch_tokens * self.train.steps


def _account(config: Config, given: str, leaves: Mapping[str, Any], row: dict[str, Work], tokens: int, entries: int) -> Account:
    """`tokens`: of a row, that `batch_tokens` counts; `entries`: scores that the loss reads of each."""
    return Account(
        given=given,
        parameters=accounting.parameters(leaves),
        row=row,
        tokens=tokens,
        loss=accounting.loss_flops(config.train, tokens, entries),
        update=accounting.update_flops(config.train, sum(leaf.size for leaf in leaves.values())),
        bytes=accounting.state_bytes(config.train, leaves),
        train=config.train,
    )


_TOKENS = jax.ShapeDtypeStruct((1, 8), jnp.int32)


def encoder_decoder_work(model: Model, facts: Facts, source: int, target: int) -> dict[str, Work]:
    """A forward pass of one row of `source` and `target` tokens, by component."""
    decoder = accounting.stack(model, model.num_decoder_layers, target, memory=source)
    return {
        "embeddings, positions, final norms": accounting.ends(model, source) + accounting.ends(model, target),
        **{f"encoder {name}": work for name, work in accounting.stack(model, model.num_encoder_layers, source).items()},
        "cross-attention's keys and values": accounting.memory_projection(model, model.num_decoder_layers, source),
        **{f"decoder {name}": work for name, work in decoder.items()},
        "logits": accounting.logits(model, target, facts.target_rows, facts.target_size),
    }


def encoder_decoder(config: Config, facts: Facts, lengths: Sequence[int] = ()) -> Account:
    """On rows of so many source and target tokens; none: `config.data.row_length`, else 64, or the limit if that is less."""
    source, target = lengths or _typical(config)
    row = encoder_decoder_work(config.model, facts, source, target)
    leaves = accounting.shapes(EncoderDecoder(config.model, facts), {"source": _TOKENS, "inputs": _TOKENS})
    return _account(config, _pairs(facts, source, target), leaves, row, target, facts.target_rows)


def _typical(config: Config) -> list[int]:
    data = config.data
    return [data.row_length or min(TYPICAL_ROW, limit) for limit in (data.max_source_length, data.max_target_length)]


def _pairs(facts: Facts, source: int, target: int) -> str:
    return (
        f"vocabulary of {facts.source_size:,} source and {facts.target_size:,} target entries; "
        f"rows of {source:,} source and {target:,} target tokens"
    )


def recurrent(config: Config, facts: Facts, lengths: Sequence[int] = ()) -> Account:
    """Products alone, without what is done element by element; on rows as `encoder_decoder`."""
    model = config.model
    source, target = lengths or _typical(config)
    leaves = accounting.shapes(RecurrentEncoderDecoder(model, facts), {"source": _TOKENS, "inputs": _TOKENS})
    row = {name: Work() for name in ("encoder", "memory", "decoder", "attention", "logits")}
    for path, leaf in leaves.items():
        if leaf.ndim < 2 or path.endswith("table"):
            continue
        name = path.split("/")[0]
        times = source if name == "encoder" or path.startswith("memory/key") else target
        if path.endswith("score/kernel"):
            name, times = "attention", source * target
        elif "/initial_" in path or path in ("memory/vector/kernel", "decoder/read/kernel"):
            times = 1  # of the source as a whole
        row[name] = row[name] + Work(2 * leaf.size * times)
    if (kind := model.recurrent.attention) != "none":  # weights times values, and queries times keys
        products = 1 if kind in ("bahdanau", "luong_concat") else 2
        row["attention"] = row["attention"] + Work(products * 2 * source * target * model.d_model)
    if model.ties_output:
        row["logits"] = accounting.logits(model, target, facts.target_rows, facts.target_size)
    given = _pairs(facts, source, target) + "; products alone are counted"
    return _account(config, given, leaves, row, target, facts.target_rows)


def decoder_only(config: Config, facts: Facts, lengths: Sequence[int] = ()) -> Account:
    """On rows of so many tokens; none: `config.data.row_length`, else `config.data.max_target_length`."""
    model, tokens = config.model, lengths[-1] if lengths else config.data.row_length or config.data.max_target_length
    row = {
        "embeddings, positions, final norm": accounting.ends(model, tokens),
        **{f"decoder {name}": work for name, work in accounting.stack(model, model.num_decoder_layers, tokens).items()},
        "logits": accounting.logits(model, tokens, facts.target_rows, facts.target_size),
    }
    leaves = accounting.shapes(DecoderOnly(model, facts), {"inputs": _TOKENS})
    given = f"vocabulary of {facts.target_size:,} entries; rows of {tokens:,} tokens"
    return _account(config, given, leaves, row, tokens, facts.target_rows)


def encoder_only(config: Config, facts: Facts, heads: Heads, lengths: Sequence[int] = ()) -> Account:
    """On rows of so many tokens; none: `config.data.row_length`, else `config.data.max_source_length`."""
    model, tokens = config.model, lengths[-1] if lengths else config.data.row_length or config.data.max_source_length
    width, types = model.d_model, Work(0, tokens * model.d_model * (model.token_types > 0))
    row = {
        "embeddings, positions, final norm": accounting.ends(model, tokens) + types,
        **{f"encoder {name}": work for name, work in accounting.stack(model, model.num_encoder_layers, tokens).items()},
    }
    if heads.masked_lm:
        transform = projection(tokens, width, width, True) + accounting.activation(model, tokens * width)
        logits = accounting.logits(model, tokens, facts.source_rows, facts.source_size)
        row["masked language model"] = transform + accounting.norm(model, tokens * width) + logits
    if heads.pooler:
        row["pooler"] = projection(1, width, width, True)
    if heads.outputs:
        row["classifier"] = projection(tokens if heads.per_token else 1, width, heads.outputs, True)
    leaves = accounting.shapes(EncoderOnly(model, facts, heads), {"source": _TOKENS})
    given = f"vocabulary of {facts.source_size:,} entries; rows of {tokens:,} tokens"
    entries = facts.source_rows if heads.masked_lm else heads.outputs
    return _account(config, given, leaves, row, tokens, entries)


def assumed_facts(config: Config) -> Facts:
    """Facts before any data is read: vocabularies as large as the settings allow, two labels."""
    size = 260 if config.data.vocabulary == "bytes" else config.data.vocabulary_size  # 256, and four special entries
    return Facts(size, size, size, size, labels=("0", "1"))


def table(account: Account) -> str:
    """An account as plain text."""
    wide = max(map(len, [*account.parameters, *account.row])) + 4

    def line(name: str, *values: str) -> str:
        return f"{name:<{wide}}" + "".join(f"{value:>18}" for value in values)

    def flops(name: str, *values: float) -> str:
        return line(f"  {name}", *(f"{value / 1e6:,.3f}" for value in values))

    sizes = {"total": account.size, "without embeddings": account.size_without_embeddings}
    tokens, train = account.tokens, account.train
    lines = [
        account.given,
        "\nparameters (all layers of a stack together)",
        *(line(f"  {name}", f"{value:,}") for name, value in account.parameters.items()),
        *(line(f"  {name}", f"{value:,}", f"{value / 1e6:,.1f} M") for name, value in sizes.items()),
        "\n" + line("per token", "forward MFLOP", "training MFLOP"),
        *(flops(name, work.forward / tokens, work.training / tokens) for name, work in account.row.items()),
        flops("loss", 0, account.loss / tokens),
        flops("update", 0, account.update / train.batch_tokens),
        flops("total", account.forward_flops, account.training_flops),
        f"\ntraining: {counted(train.steps, 'update')} of {counted(train.batch_tokens, 'target token')}, "
        f"{account.total_flops:.3g} FLOP",
        "\n" + line("memory of one copy, activations apart", "MB"),
        *(line(f"  {name}", f"{value / 1e6:,.1f}") for name, value in account.bytes.items()),
        line("  total", f"{sum(account.bytes.values()) / 1e6:,.1f}"),
    ]
    return "\n".join(lines)
