"""Reading 4-bit checkpoints as bitsandbytes writes them.

Beside a weight of uint8 codes lie its tensors `.absmax` (the scales), `.nested_absmax` (theirs) and
`.quant_state.bitsandbytes__nf4`, which is JSON in bytes: block sizes, shape, offset.
"""

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from luthier.core.errors import ModelError
from luthier.kernels.nf4 import NESTED_BLOCK, NF4

STATE = ".quant_state.bitsandbytes__nf4"
PARTS = (".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map", STATE)


def require_nf4(config: Mapping[str, Any], where: str) -> None:
    """Refuse a `quantization_config` other than bitsandbytes' NF4.

    Raises:
        ModelError: another method, or another 4-bit type.
    """
    method = config.get("quant_method", "an unknown method")
    kind = config.get("bnb_4bit_quant_type", "fp4") if method == "bitsandbytes" else None
    if method != "bitsandbytes" or not config.get("load_in_4bit") or kind != "nf4":
        named = f"{method} {kind}" if kind else method
        raise ModelError(
            f"the weights are already quantised ({named}), and of such only bitsandbytes' nf4 is supported",
            where=where,
            fix="choose the bf16 version of the model",
        )


def read_nf4(name: str, get: Callable[[str], Tensor], device: torch.device, where: str) -> NF4:
    """The quantised weight `name`, its tensors read by `get`.

    Raises:
        ModelError: its parts do not fit together.
    """
    state = json.loads(bytes(get(name + STATE).tolist()))
    codes, scales = get(name).flatten(), get(name + ".absmax").flatten()
    shape, block = torch.Size(state["shape"]), state["blocksize"]
    nested, offset = None, torch.zeros(())
    if "nested_blocksize" in state:
        nested, offset = get(name + ".nested_absmax").flatten().float(), torch.tensor(state["nested_offset"])
    else:
        scales = scales.float()
    blocks = math.ceil(shape.numel() / block)
    fits = (
        len(codes) == math.ceil(shape.numel() / 2)
        and len(scales) == blocks
        and block % 2 == 0
        and (nested is None or (len(nested) == math.ceil(blocks / NESTED_BLOCK) and scales.dtype == torch.uint8))
        and state.get("nested_blocksize", NESTED_BLOCK) == NESTED_BLOCK
        and codes.dtype == torch.uint8
    )
    if not fits:
        raise ModelError(f"the parts of the quantised tensor {name} do not fit together", where=where)
    parts = codes, scales, nested, offset.float()
    codes, scales, nested, offset = (None if part is None else part.to(device) for part in parts)
    return NF4(codes, scales, nested, offset, shape, block)
