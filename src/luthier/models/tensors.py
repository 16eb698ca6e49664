"""The tensors of a model folder by name, over all its safetensors files, read one at a time."""

from contextlib import ExitStack
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from luthier.core.errors import ModelError
from luthier.kernels.nf4 import NF4, dequantise, quantise
from luthier.models.folder import shard_files
from luthier.models.prequantised import PARTS, STATE, read_nf4
from luthier.models.spec import Spec

# What a checkpoint may hold without need: tables that follow from the config, and a copy of a tied table.
NEEDLESS = ("rotary_emb.inv_freq", "lm_head.weight")


class Tensors:
    """What is stored in `folder`; the files stay open until `stack` is closed.

    Attributes:
        inner: the beginning of the layers' names; another one where the model is a part of a larger one.
        head: the output head's name.

    Raises:
        ModelError: a file is missing or damaged.
    """

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self._files = {}
        for path in shard_files(folder):
            try:
                file = stack.enter_context(safe_open(path, "pt"))
            except (SafetensorError, FileNotFoundError) as error:
                raise ModelError(f"cannot be read: {error}", where=str(path)) from None
            self._files |= dict.fromkeys(file.keys(), file)
        self._read: set[str] = set()
        inners = ("model", "language_model.model", "model.language_model")
        self.inner = next((inner for inner in inners if f"{inner}.embed_tokens.weight" in self._files), "model")
        self.head = "language_model.lm_head.weight" if self.inner == "language_model.model" else "lm_head.weight"

    def _get(self, name: str) -> Tensor:
        if name not in self._files:
            raise ModelError(f"the tensor {name} is missing", where=str(self.folder))
        self._read.add(name)
        return self._files[name].get_tensor(name)

    def _require(self, name: str, stored: torch.Size, wanted: torch.Size) -> None:
        if stored != wanted:
            shapes = f"{tuple(stored)}, and config.json says {tuple(wanted)}"
            raise ModelError(f"the tensor {name} is {shapes}", where=str(self.folder))

    def fill(self, out: Tensor, name: str) -> None:
        """Copy tensor `name` into `out`, converting its dtype.

        Raises:
            ModelError: no such tensor, or one of another shape.
        """
        if name + STATE in self._files:
            stored = read_nf4(name, self._get, out.device, str(self.folder))
            self._require(name, stored.shape, out.shape)
            dequantise(stored, out)
            return
        plain = self._get(name)
        self._require(name, plain.shape, out.shape)
        out.copy_(plain)

    def nf4(self, name: str, shape: torch.Size, device: torch.device) -> NF4:
        """Tensor `name` as NF4 on `device`, quantised there if it is not stored so.

        Raises:
            ModelError: no such tensor, or one of another shape.
        """
        if name + STATE in self._files:
            stored = read_nf4(name, self._get, device, str(self.folder))
        else:
            stored = quantise(self._get(name).to(device))
        self._require(name, stored.shape, shape)
        return stored

    def refuse_unread(self, spec: Spec) -> None:
        """A tensor that nothing has read (a q/k norm, a bias) would be silently left out: refuse instead.

        Raises:
            ModelError: there is such a tensor.
        """
        known = self._read | {name + part for name in self._read if name + STATE in self._files for part in PARTS}
        unread = sorted(
            name
            for name in self._files.keys() - known
            if not name.endswith(NEEDLESS) and not (spec.left_out and name.startswith(spec.left_out))
        )
        if unread:
            raise ModelError(
                f"the weights hold {len(unread)} tensors that a {spec.family} model has no place for, "
                f"the first is {unread[0]}",
                where=str(self.folder),
            )
