"""Speed and memory, side by side with other libraries: `python -m experiments.benchmarks.NAME` prints a table.

`pip install -r experiments/benchmarks/requirements.txt` installs the others; one that is absent is left out with a note.
All contenders take turns in one run, with the same threads, data and type; figures of different runs do not compare.
"""
