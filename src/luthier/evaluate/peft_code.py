"""Python that loads a run's result with PEFT, over a base that is held as it was in training."""

from collections.abc import Mapping
from typing import Any


def peft_code(base: str, adapter: str, recipe: Mapping[str, Any], dtype: str) -> str:
    """The lines, for a person to copy.

    A base that was trained over in 4 bits is loaded in 4 bits; what bitsandbytes does otherwise is said in a comment.

    Args:
        base: folder of the base model.
        adapter: folder of the adapter.
        recipe: the run's fields; what is missing, as in the events of an older version, is as usual.
        dtype: what the run computed in, "bf16" or "fp32".
    """
    if recipe.get("adapter") != "qlora":
        return (
            "from peft import PeftModel\n"
            "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
            f"base = {base!r}\n"
            "tokenizer = AutoTokenizer.from_pretrained(base)\n"
            f"model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), {adapter!r})"
        )
    number = "torch.float32" if dtype == "fp32" else "torch.bfloat16"
    head = "# The run held the output head in 4 bits, too (nf4_head); here it is in full.\n"
    return (
        "import torch\n"
        "from peft import PeftModel\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig\n\n"
        f"base = {base!r}\n"
        "tokenizer = AutoTokenizer.from_pretrained(base)\n"
        "# The base in 4 bits, as it was trained over; needs bitsandbytes.\n"
        f"{head if recipe.get('nf4_head') else ''}"
        "four_bits = BitsAndBytesConfig(\n"
        '    load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,\n'
        f"    bnb_4bit_compute_dtype={number},\n"
        ")\n"
        f"model = AutoModelForCausalLM.from_pretrained(base, dtype={number}, quantization_config=four_bits)\n"
        f"model = PeftModel.from_pretrained(model, {adapter!r})"
    )
