"""Residual connections with learned factors: LayerScale (Touvron et al. 2021) and ReZero (Bachlechner et al. 2021).

    x + s * f(x)

LayerScale has a factor for each channel, which begins at a small value; ReZero has one number for each sublayer, which begins
at 0, so that a model is the identity at first. Published ReZero has no norms; here `config.model.norm_order` says where they
stand. With post-norm, the sum is normalized.

    python launch.py --workdir=runs/scaled --config.model.norm_order=pre \\
        --config.model.residual=experiments/variants/layer_scale.py:LayerScale

Letters: B rows, T tokens, D d_model.
"""

import dataclasses

import jax

from transformer.components.masks import Sizes
from transformer.components.parameters import Constant, Declared, Parameters
from transformer.components.residuals import Residual, Sublayer
from transformer.settings import setting

Array = jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReZero(Residual):
    """One learned factor for a sublayer's output, which begins at 0."""

    def parameters(self, sizes: Sizes) -> Declared:
        return {"scale": Constant((1,))}

    def write(self, p: Parameters, stream: Array, y_BxTxD: Array, sublayer: Sublayer) -> Array:
        return stream + p["scale"].astype(stream.dtype)[None, None] * y_BxTxD


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerScale(ReZero):
    """A learned factor for each channel of a sublayer's output."""

    initial: float = setting(0.1, "initial factors (Touvron et al.: 0.1 up to 18 layers, 1e-5 up to 24, 1e-6 for more)")

    def parameters(self, sizes: Sizes) -> Declared:
        return {"scale": Constant((sizes.d_model,), value=self.initial)}
