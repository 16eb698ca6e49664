"""How good the result is: held-out losses with intervals, a summary of each run, and the report a person reads."""
