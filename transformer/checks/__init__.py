"""Properties that every model must have, whatever its variant of attention, as functions that measure an error.

`shrink` makes a configuration small, `Subject` holds the small model with its parameters, batches and compiled programs, and
each property is a function of a `Subject` that returns the measured error, or the reason why it does not apply. `table` lists
them with their bounds and with the code to inspect if one fails.
"""
