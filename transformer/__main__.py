"""`python -m transformer`: the command line."""

from transformer.cli import run

if __name__ == "__main__":
    run()
