"""From a pile of examples to a dataset that can be trusted: every decision is written down, and can be taken back."""
