"""What a report says to type to load a run's result with PEFT is typed here, and gives what was trained."""

from pathlib import Path
from typing import Any

import bitsandbytes
import pytest
import torch

from helpers_models import full_adapter
from helpers_runs import make_chat_model
from luthier.evaluate.peft_code import peft_code
from luthier.kernels.segments import Segments
from luthier.models.adapter_files import save_adapter
from luthier.models.weights import load_decoder

BLOCKS = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}


@pytest.mark.filterwarnings("ignore")  # bitsandbytes, of its own
@pytest.mark.parametrize("adapter", ["lora", "qlora"])
def test_it_loads_what_was_trained(adapter: str, tmp_path: Path) -> None:
    for part in ("base's", "adapter"):
        (tmp_path / part).mkdir()
    make_chat_model(tmp_path / "base's", **BLOCKS)
    decoder = load_decoder(tmp_path / "base's", dtype=torch.float32, nf4=adapter == "qlora")
    trained = full_adapter(decoder)
    save_adapter(trained, tmp_path / "adapter", base_model=str(tmp_path / "base's"), nf4=adapter == "qlora")
    code = peft_code(str(tmp_path / "base's"), str(tmp_path / "adapter"), {"adapter": adapter}, "fp32")
    made: dict[str, Any] = {}
    exec(code, made)
    linears = [part for part in made["model"].modules() if isinstance(part, bitsandbytes.nn.Linear4bit)]
    assert len(linears) == (7 * decoder.spec.num_layers if adapter == "qlora" else 0)
    for linear in linears:  # where the processor multiplies bf16, bitsandbytes rounds float32 to it
        linear.support_avx512bf16_for_cpu = False
    tokens = torch.arange(20) * 7 % decoder.spec.vocab_size
    other = load_decoder(tmp_path / "base's", dtype=torch.float32, nf4=adapter == "lora")
    with torch.no_grad():
        theirs = made["model"](input_ids=tokens[None]).logits[0]
        ours, beside = (one.logits(one.hidden(tokens, Segments.of([20]), trained), trained) for one in (decoder, other))
    # On a CPU bitsandbytes sometimes stores the second nearest of two scales.
    torch.testing.assert_close(theirs, ours, rtol=0, atol=2e-3)
    assert (beside - theirs).abs().max() > 2e-2


def test_what_differs_is_said() -> None:
    """A head in 4 bits, and what the products run in."""
    said = peft_code("m", "a", {"adapter": "qlora", "nf4_head": True}, "bf16")
    assert "# The run held the output head in 4 bits, too (nf4_head); here it is in full.\n" in said
    assert said.count("torch.bfloat16") == 2 and "float32" not in said
    assert "nf4_head" not in peft_code("m", "a", {"adapter": "qlora"}, "bf16")
    assert "BitsAndBytes" not in peft_code("m", "a", {}, "bf16")
