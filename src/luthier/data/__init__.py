"""Datasets: read, understood, split, rendered to token ids with a proven loss mask, and packed."""
