"""What must hold of every model, whatever variant of attention it has, as functions that measure an error.

`shrink` makes a configuration small, `Subject` holds the small model with its parameters, batches and compiled programs, and
each property is a function of a `Subject` that returns the measured error, or the reason why it does not apply. `table` lists
them with their bounds and with where to look when one fails.
"""
