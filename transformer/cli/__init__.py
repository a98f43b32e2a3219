"""The command line: flags in, one call out. `flags.py` reads it, `usage.py` explains it, `main.py` acts on it."""

from transformer.runtime.memory import keep_freed_memory


def run() -> None:
    """What `python launch.py` and the installed command `transformer` do."""
    keep_freed_memory()  # before the imports below, which start threads
    from transformer.cli.main import run

    run()
