"""The command line: `flags.py` parses it, `usage.py` prints the help, `main.py` runs the mode."""

import sys

from transformer.errors import program
from transformer.runtime.memory import keep_freed_memory


def run() -> None:
    """The entry point of `python launch.py` and of the installed command `transformer`."""
    keep_freed_memory()  # before the imports below, which start threads
    try:
        from transformer.cli.main import run
    except ModuleNotFoundError as error:
        if not error.name or error.name.startswith("transformer"):
            raise
        print(f"{program()}: no {error.name} for {sys.executable}: run pip install -r requirements.txt", file=sys.stderr)
        sys.exit(2)

    run()
