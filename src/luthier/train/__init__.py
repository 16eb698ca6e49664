"""One loop for every objective: steps of a plan, checkpoints, validation, and the events that record them."""
