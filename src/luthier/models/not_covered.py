"""The refusal of a config that our own decoder does not run, and another one may."""

from luthier.core.errors import ModelError


class NotCovered(ModelError):
    """Nothing is damaged: the config asks for a type or a feature that no family of ours has.

    Args:
        entry: which entry of the config that is, as "model_type: olmo2".
    """

    def __init__(self, what: str, *, entry: str, where: str = "config.json", fix: str = "") -> None:
        super().__init__(what, where=where, fix=fix)
        self.entry = entry
