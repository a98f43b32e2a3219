"""Hyper-connections: several residual streams, which sublayers read and write with learned weights (Zhu et al. 2025).

The state H of a token has n rows instead of one. A sublayer f reads one mixture of the rows, and what it returns is added to
other mixtures of them (equations 2 to 5):

    x = a^T H        H' = A^T H + b f(x)

With `dynamic`, each weight also depends on the token: factor * tanh(norm(H) w) is added to it (equations 10 to 13; norm is an
RMSNorm without parameters). As published, w begins at 0, the factors at 0.01, A at the identity, b at ones, and a at one row,
which is another for each sublayer in turn. So at first a model with pre-norm computes what it computes with plain residual
connections. Unlike the published models, initial kernels of sublayers' outputs are not divided by sqrt(n).

    python launch.py --workdir=runs/hyper --config.model.norm_order=pre \\
        --config.model.residual=experiments/variants/hyper_connections.py:HyperConnections

Letters: B rows of a batch, T tokens, D d_model, N and M streams.
"""

import dataclasses

import jax
import jax.numpy as jnp

from transformer.components.masks import Sizes
from transformer.components.parameters import Constant, Declared, Parameters
from transformer.components.products import wide_product
from transformer.components.residuals import Residual, Sublayer
from transformer.settings import setting

Array = jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class HyperConnections(Residual):
    """A state of `streams` vectors for each token. The rows of a stack's last state are added up."""

    streams: int = setting(4, "residual streams (n)", at_least=2)
    dynamic: bool = setting(True, "weights depend on the token (DHC); false: they do not (SHC)")

    def parameters(self, sizes: Sizes) -> Declared:
        count, width = self.streams, sizes.d_model
        declared: dict[str, Constant] = {}
        for name, columns in {"read": 1, "keep": count, "write": 1}.items():
            declared[f"{name}/bias"] = Constant((count, columns))  # static weights, less their initial values
            if self.dynamic:
                declared[f"{name}/kernel"] = Constant((width, columns), ("model", None))
        factors = {"mix_factor": Constant((), value=0.01), "write_factor": Constant((), value=0.01)}
        return declared | factors if self.dynamic else declared

    def supports(self, norm_order: str, final_norm: bool) -> str | None:
        if final_norm:
            return None
        return (
            "config.model.residual HyperConnections: the sum of its streams needs a norm; set config.model.final_norm=true, or "
            f"config.model.norm_order, which is {norm_order}, to pre"
        )

    def open(self, x_BxTxD: Array) -> Array:
        return jnp.repeat(x_BxTxD[:, :, None], self.streams, axis=2)

    def read(self, p: Parameters, stream: Array, start: Array, sublayer: Sublayer) -> Array:
        one_N = jax.nn.one_hot(sublayer.number % self.streams, self.streams)
        weights_BxTxNx1 = self._weights(p, "read", "mix_factor", stream) + one_N[None, None, :, None]
        return jnp.sum(weights_BxTxNx1 * stream, axis=2).astype(stream.dtype)

    def write(self, p: Parameters, stream: Array, y_BxTxD: Array, sublayer: Sublayer) -> Array:
        kept = stream + jnp.sum(self._weights(p, "keep", "mix_factor", stream)[..., None] * stream[:, :, :, None], axis=2)
        weights_BxTxNx1 = self._weights(p, "write", "write_factor", stream) + 1
        return (kept + weights_BxTxNx1 * y_BxTxD[:, :, None]).astype(stream.dtype)

    def close(self, stream: Array) -> Array:
        return jnp.sum(stream, axis=2)

    def _weights(self, p: Parameters, name: str, factor: str, stream: Array) -> Array:
        """BxTxNxM in fp32: the static weights, less their initial values, and with `dynamic` what is added for each token."""
        static_1x1xNxM = p[f"{name}/bias"][None, None]
        if not self.dynamic:
            return static_1x1xNxM
        whole = stream.astype(jnp.float32)
        unit = (whole * jax.lax.rsqrt(jnp.mean(jnp.square(whole), axis=-1, keepdims=True) + 1e-6)).astype(stream.dtype)
        added = jnp.tanh(wide_product("btnd,dm->btnm", unit, p[f"{name}/kernel"]))
        return static_1x1xNxM + p[factor] * added
