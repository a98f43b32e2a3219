"""Command line: `python launch.py --help` explains it. The installed command `transformer` is the same."""

from transformer.cli import run

if __name__ == "__main__":
    run()
