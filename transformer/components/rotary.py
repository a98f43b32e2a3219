"""Rotary position embeddings (Su et al. 2021), and scalings of their frequencies for texts longer than those of training.

Letters: B rows, T tokens, H heads, K width of a head, R rotated width.
"""

import dataclasses
import math
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from transformer.components.masks import Sizes
from transformer.components.parameters import Parameters
from transformer.components.positions import Positions
from transformer.registry import Component
from transformer.settings import setting

Array = jax.Array


def plain_rates(base: Any, width: int) -> Any:
    """base^(-2i/R), i = 0 .. R/2 - 1: radians per position of each pair."""
    half = width // 2
    return base ** (-np.arange(half, dtype=np.float32) / np.float32(half))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scaling(Component):
    """Base of scalings. It does not change the frequencies."""

    def rates(self, base: float, width: int, longest: Array) -> Any:
        """Radians per position of each pair: R/2, or B x 1 x R/2 if rows differ.

        `longest`: the length of each row, B x 1, or one number for all.
        """
        return plain_rates(base, width)

    def magnitude(self) -> float:
        """The factor by which rotated queries and keys are multiplied."""
        return 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoScaling(Scaling, name="none"):
    """Frequencies are not scaled."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Linear(Scaling, name="linear"):
    """Positions are divided by a factor (position interpolation; Chen et al. 2023)."""

    factor: float = setting(2.0, "how many times longer texts may be", at_least=1)

    def rates(self, base: float, width: int, longest: Array) -> Any:
        return plain_rates(base, width) / np.float32(self.factor)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DynamicNTK(Scaling, name="dynamic"):
    """The base grows with the length of the text once it exceeds the trained length (dynamic NTK, as in Transformers).

    The length is the largest position in one call, plus 1. With a cache, keys keep the rotation with which they were written,
    so beyond the trained length the logits differ from those without a cache, as they do in Transformers.
    """

    factor: float = setting(2.0, "how fast the base grows", at_least=1)
    trained_length: int = setting(2048, "positions of the texts trained on", at_least=1)

    def rates(self, base: float, width: int, longest: Array) -> Any:
        length = jnp.maximum(longest, self.trained_length).astype(jnp.float32)
        grown = self.factor * length / self.trained_length - (self.factor - 1)
        return plain_rates((base * grown ** (width / (width - 2)))[..., None], width)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Yarn(Scaling, name="yarn"):
    """Low frequencies are divided by a factor, high ones kept, and logits are sharpened (YaRN; Peng et al. 2024, section 3)."""

    factor: float = setting(4.0, "how many times longer texts may be", at_least=1)
    trained_length: int = setting(4096, "positions of the texts trained on", at_least=1)
    beta_fast: float = setting(32.0, "frequencies with more rotations than this over the trained length are kept", above=0)
    beta_slow: float = setting(1.0, "frequencies with fewer rotations than this are divided by the factor", above=0)
    truncate: bool = setting(True, "the bounds between kept and divided frequencies are rounded to whole pairs")
    attention_factor: float | None = setting(None, "factor on queries and keys; none: 0.1 ln(factor) + 1", above=0)

    def rates(self, base: float, width: int, longest: Array) -> Any:
        def pair(rotations: float) -> float:
            """The index of the pair that makes this number of rotations over the trained length."""
            return width * math.log(self.trained_length / (rotations * 2 * math.pi)) / (2 * math.log(base))

        low, high = pair(self.beta_fast), pair(self.beta_slow)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, width - 1)
        divided = np.clip((np.arange(width // 2) - low) / max(high - low, 0.001), 0, 1).astype(np.float32)
        return plain_rates(base, width) * (1 - divided + divided / np.float32(self.factor))

    def magnitude(self) -> float:
        return self.attention_factor or (0.1 * math.log(self.factor) + 1.0 if self.factor > 1 else 1.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Llama3(Scaling, name="llama3"):
    """Long wavelengths are multiplied by a factor, short ones are kept, with a smooth transition (Llama 3.1)."""

    factor: float = setting(8.0, "how many times longer texts may be", at_least=1)
    trained_length: int = setting(8192, "positions of the texts trained on", at_least=1)
    low_frequency_factor: float = setting(1.0, "wavelengths above trained_length / this are stretched", above=0)
    high_frequency_factor: float = setting(4.0, "wavelengths below trained_length / this are kept", above=0)

    def rates(self, base: float, width: int, longest: Array) -> Any:
        rates, low, high = plain_rates(base, width), self.low_frequency_factor, self.high_frequency_factor
        kept = np.clip((self.trained_length * rates / (2 * math.pi) - low) / (high - low), 0, 1).astype(np.float32)
        return rates * (kept + (1 - kept) / np.float32(self.factor))


@dataclasses.dataclass(frozen=True, kw_only=True)
class LongRope(Scaling, name="longrope"):
    """Each frequency is divided by its own factor: one set for texts up to the trained length, another for longer ones
    (LongRoPE).

    Ding et al. 2024; used in Phi 3. The length is the largest position in one call, plus 1, as for `DynamicNTK`.
    """

    short_factors: tuple[float, ...] = setting(
        (), "a factor for each of the R/2 frequencies, for texts up to the trained length"
    )
    long_factors: tuple[float, ...] = setting((), "a factor for each of the R/2 frequencies, for longer texts")
    trained_length: int = setting(4096, "positions of the texts trained on", at_least=2)
    factor: float = setting(1.0, "how many times longer texts may be", at_least=1)
    attention_factor: float | None = setting(
        None, "factor on queries and keys; none: sqrt(1 + ln factor / ln trained_length)", above=0
    )

    def rates(self, base: float, width: int, longest: Array) -> Any:
        short, long = (np.asarray(factors, np.float32) for factors in (self.short_factors, self.long_factors))
        longer = jnp.asarray(longest > self.trained_length)[..., None]
        rates, short, long = (
            each.reshape((1,) * (longer.ndim - 1) + (-1,)) for each in (plain_rates(base, width), short, long)
        )
        return rates / jnp.where(longer, long, short)

    def magnitude(self) -> float:
        if self.attention_factor is not None:
            return self.attention_factor
        return 1.0 if self.factor <= 1 else math.sqrt(1 + math.log(self.factor) / math.log(self.trained_length))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rotary(Positions, name="rotary"):
    """Pairs of entries of queries and keys are rotated by p / base^(2i/R) (Su et al. 2021, equation 34)."""

    relative: ClassVar[bool] = True
    base: float = setting(10000.0, "base of the wavelengths", above=1)
    fraction: float = setting(
        1.0, "fraction of a head's width that is rotated, from its beginning (GPT-NeoX)", above=0, at_most=1
    )
    frequencies: float = setting(
        1.0, "fraction of the frequencies that are used, from the highest on (p-RoPE)", above=0, at_most=1
    )
    layout: Literal["halves", "interleaved"] = setting("halves", "which entries form a pair: i and i + R/2, or 2i and 2i + 1")
    scaling: Scaling = setting(NoScaling(), "scaling of the frequencies for texts longer than those of training")
    size: int | None = setting(None, "longest text, in tokens, that the model is meant for; none: no limit", at_least=1)

    def longest(self) -> int | None:
        return self.size

    def check(self, sizes: Sizes) -> str | None:
        if (width := self.width(sizes.d_k)) % 2 or width == 0:
            return f"config.model.d_k is {sizes.d_k}: rotary positions rotate pairs, so the rotated width {width} must be even"
        if width < 4 and isinstance(self.scaling, DynamicNTK):
            return f"config.model.d_k is {sizes.d_k}: scaling dynamic needs two pairs or more, and the rotated width is {width}"
        if isinstance(self.scaling, Llama3) and self.scaling.low_frequency_factor >= self.scaling.high_frequency_factor:
            return (
                f"config.model.positions.scaling.low_frequency_factor {self.scaling.low_frequency_factor:g} is not below "
                f"high_frequency_factor {self.scaling.high_frequency_factor:g}; change one"
            )
        for name in ("short_factors", "long_factors"):
            given = getattr(self.scaling, name, None)
            if given is not None and len(given) != width // 2:
                return (
                    f"config.model.positions.scaling.{name} has {len(given)} numbers; it needs one per frequency, {width // 2}"
                )
        return None

    def width(self, d_k: int) -> int:
        """The number of entries of a head that are rotated."""
        return int(d_k * self.fraction)

    def rates(self, width: int, positions: Array) -> Any:
        """Radians per position of each pair after scaling; 0 for frequencies that are not used."""
        rates = self.scaling.rates(self.base, width, jnp.max(positions, axis=-1, keepdims=positions.ndim > 1) + 1)
        if self.frequencies == 1:
            return rates
        rotating = np.arange(width // 2) < math.ceil(width // 2 * self.frequencies)
        return jnp.where(rotating.reshape((1,) * (np.ndim(rates) - 1) + (-1,)), rates, 0.0)

    def rotate(self, p: Parameters, x_BxTxHxK: Array, positions: Array) -> Array:
        width = self.width(x_BxTxHxK.shape[-1])
        rates = jnp.asarray(self.rates(width, positions))
        angles = positions[..., None].astype(jnp.float32) * rates.reshape(
            (1,) * (positions.ndim + 1 - rates.ndim) + rates.shape
        )
        sin, cos = (self._wave(wave(angles)) for wave in (jnp.sin, jnp.cos))
        whole = x_BxTxHxK[..., :width].astype(jnp.float32)
        if self.layout == "halves":
            first, second = jnp.split(whole, 2, axis=-1)
            rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
        else:
            first, second = whole[..., 0::2], whole[..., 1::2]
            rotated = jnp.stack([first * cos - second * sin, second * cos + first * sin], axis=-1).reshape(whole.shape)
        rotated = rotated.astype(x_BxTxHxK.dtype)
        return rotated if width == x_BxTxHxK.shape[-1] else jnp.concatenate([rotated, x_BxTxHxK[..., width:]], axis=-1)

    def _wave(self, wave: Array) -> Array:
        """Sines or cosines in the shape that broadcasts over heads: [B or 1] x T x 1 x R/2."""
        wave = wave if wave.ndim == 3 else wave[None]
        magnitude = self.scaling.magnitude()
        return wave[:, :, None, :] if magnitude == 1 else wave[:, :, None, :] * magnitude
