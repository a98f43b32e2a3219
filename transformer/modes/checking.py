"""Checks whether a variant is a correct attention: a table of the properties of transformer/checks on a small model."""

import sys
import time

import jax

from transformer.checks import table
from transformer.checks.programs import DEVICES
from transformer.checks.shrink import shrink
from transformer.checks.subject import Subject
from transformer.config import Config
from transformer.errors import counted, program


def check(config: Config) -> None:
    """Prints a line for each property. SystemExit with status 1: one of them fails. UserError: the model cannot be made
    small."""
    begin = time.perf_counter()
    simulate()
    small, changes = shrink(config)
    print("\n".join(["checked on a small model:", *(f"  {each}" for each in changes)]) if changes else "checked as it is")
    print(f"\n{table.HEAD}", flush=True)
    subject, failed, applied = Subject(small), [], 0
    for finding in table.run(subject):
        print(table.line(finding), flush=True)
        applied += finding.error is not None or finding.failed
        failed += [finding] if finding.failed else []
    held, seconds = applied - len(failed), time.perf_counter() - begin
    print(f"\n{held} of {counted(applied, 'property', 'properties')} hold, {seconds:.0f} s")
    if failed:
        sys.stdout.flush()
        sys.exit("\n".join(f"{program()}: {table.remedy(finding, small)}" for finding in failed))


def simulate() -> None:
    """Simulates eight devices on this machine's processor, with fast compilation, because each program runs for
    milliseconds."""
    try:
        jax.config.update("jax_num_cpu_devices", DEVICES)
    except RuntimeError:
        return  # JAX is already initialised, and its devices cannot change
    jax.config.update("jax_disable_most_optimizations", True)
