"""Where Luthier keeps what outlives a run: imported models and tokenised data."""

from pathlib import Path


def home_dir() -> Path:
    """`~/.luthier`, the one folder Luthier writes to outside the working folder."""
    return Path.home() / ".luthier"


def models_dir() -> Path:
    """The local model store: one folder a model, named as in `base_model`."""
    return home_dir() / "models"


def cache_dir() -> Path:
    """Tokenised rows by content hash; safe to delete at any time."""
    return home_dir() / "cache"
