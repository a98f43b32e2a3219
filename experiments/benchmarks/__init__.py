"""Speed and memory compared with other libraries: `python -m experiments.benchmarks.NAME` prints a table.

`pip install -r experiments/benchmarks/requirements.txt` installs the others; a missing library is left out with a
note. All contenders take turns in one run, with the same threads, data and type; figures of different runs are not comparable.
"""
