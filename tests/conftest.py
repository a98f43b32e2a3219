"""What holds for every test: how JAX checks shapes, and how it compiles."""

import mmap
import os
from pathlib import Path

import jax
import jaxlib

# Silent broadcasting between ranks hides mistakes in shapes.
jax.config.update("jax_numpy_rank_promotion", "raise")


def _known(flag: str) -> bool:
    """Whether this XLA has the flag: it ends the process on one that it does not know."""
    for library in Path(jaxlib.__file__).parent.glob("libjax_common*"):
        with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return content.find(flag.encode()) >= 0
    return False


def _compile_quickly() -> None:
    """Code that is not optimised: tests compile hundreds of programs and run each for milliseconds.

    These settings take a third to a tenth of the time to compile. They leave the program, its types and the order of its sums'
    operands as they are: what differs is rounding, inside every test's tolerance, and speed. To run the tests on code
    as users get it: JAX_DISABLE_MOST_OPTIMIZATIONS=0 python -m pytest.
    """
    if "JAX_DISABLE_MOST_OPTIMIZATIONS" in os.environ:
        return
    jax.config.update("jax_disable_most_optimizations", True)
    given = os.environ.get("XLA_FLAGS")
    wanted = {"xla_cpu_use_fusion_emitters": "false", "xla_cpu_parallel_codegen_split_count": "1"}
    quick = [f"--{flag}={value}" for flag, value in wanted.items() if _known(flag)]
    os.environ["XLA_FLAGS"] = " ".join([*quick, given or ""])
    jax.devices()  # XLA reads the variable here; programs that tests start get it as it was
    if given is None:
        del os.environ["XLA_FLAGS"]
    else:
        os.environ["XLA_FLAGS"] = given


_compile_quickly()
