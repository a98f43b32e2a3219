"""What holds for every test: how JAX checks shapes, and how it compiles."""

import os

import jax

# Silent broadcasting between ranks hides mistakes in shapes.
jax.config.update("jax_numpy_rank_promotion", "raise")

# Tests compile hundreds of programs and run each for milliseconds. This leaves a program, its types and the order of its
# sums' operands as they are; rounding differs, inside every test's tolerance. To run the tests on code as users get it:
# JAX_DISABLE_MOST_OPTIMIZATIONS=0 python -m pytest.
if "JAX_DISABLE_MOST_OPTIMIZATIONS" not in os.environ:
    jax.config.update("jax_disable_most_optimizations", True)
    if jax.__version_info__ < (0, 11):  # XLA ends the process on a flag that it no longer has
        quick = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {quick}"
