"""The command line: `flags.py` parses it, `usage.py` prints the help, `main.py` runs the mode."""

from transformer.runtime.memory import keep_freed_memory


def run() -> None:
    """The entry point of `python launch.py` and of the installed command `transformer`."""
    keep_freed_memory()  # before the imports below, which start threads
    from transformer.cli.main import run

    run()
