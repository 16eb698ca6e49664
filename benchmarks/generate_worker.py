"""One contender of generate.py in a process of its own; prints one line of JSON.

python benchmarks/generate_worker.py luthier|luthier-nf4|luthier-nf4-unpacked|transformers|transformers-nf4 PLAN.json
"""

import json
import resource
import sys
import time
from collections.abc import Callable
from importlib import metadata, util
from pathlib import Path
from typing import Any

Answer = Callable[[list[list[int]], int], list[list[int]]]


def luthier(plan: dict[str, Any], *, nf4: bool, unpacked: bool) -> Answer:
    """`generate_batch` over the model as a run or a chat holds it."""
    import torch

    from luthier.models.device import keep_freed_memory
    from luthier.models.generate import generate_batch
    from luthier.models.unpack import in_four_bits, unpack
    from luthier.models.weights import load_decoder

    keep_freed_memory()
    decoder = load_decoder(Path(plan["model"]), dtype=torch.bfloat16, device=plan["device"], nf4=nf4)
    if unpacked:
        unpack(decoder, in_four_bits(decoder))

    def answer(prompts: list[list[int]], new_tokens: int) -> list[list[int]]:
        made = generate_batch(
            decoder, prompts, decode=lambda tokens: "", stop_ids=frozenset(), max_new_tokens=new_tokens
        )
        return [one.tokens for one in made]

    return answer


def transformers(plan: dict[str, Any], *, nf4: bool) -> Answer:
    """`generate` as its documentation shows it: padded on the left, with an attention mask."""
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    more = {}
    if nf4:
        more["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
    model = AutoModelForCausalLM.from_pretrained(
        plan["model"], dtype=torch.bfloat16, device_map=plan["device"], **more
    ).eval()

    @torch.inference_mode()
    def answer(prompts: list[list[int]], new_tokens: int) -> list[list[int]]:
        longest = max(map(len, prompts))
        ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts], device=plan["device"])
        mask = torch.tensor(
            [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=plan["device"]
        )
        made = model.generate(
            ids, attention_mask=mask, max_new_tokens=new_tokens, min_new_tokens=new_tokens, do_sample=False,
            pad_token_id=0,
        )  # fmt: skip
        return made[:, longest:].tolist()

    return answer


def versions(*names: str) -> dict[str, str]:
    """Installed versions."""
    return {name: metadata.version(name) for name in names}


def main() -> None:
    """Run the contender and print what it did."""
    contender, plan = sys.argv[1], json.loads(Path(sys.argv[2]).read_text())
    nf4 = "nf4" in contender
    if contender.startswith("transformers"):
        needed = ("transformers", "accelerate", *(("bitsandbytes",) if nf4 else ()))
        if missing := [name for name in needed if util.find_spec(name) is None]:
            print(json.dumps({"missing": f"{' and '.join(missing)} not installed"}))
            return
        answer, used = transformers(plan, nf4=nf4), versions("torch", *needed)
    else:
        answer = luthier(plan, nf4=nf4, unpacked=contender.endswith("unpacked"))
        used = versions("torch", "luthier")

    def seconds(prompts: list[list[int]], new_tokens: int) -> tuple[float, list[list[int]]]:
        began = time.perf_counter()
        made = answer(prompts, new_tokens)  # tokens on the host, so the device is done
        return time.perf_counter() - began, made

    batches = {}
    for number in plan["batches"]:
        prompts = plan["prompts"][:number]
        answer(prompts, plan["new_tokens"])
        first, _ = seconds(prompts, 1)
        whole, answers = seconds(prompts, plan["new_tokens"])
        batches[number] = {"seconds": whole, "first_token_seconds": first, "answers": answers}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"batches": batches, "peak_rss_bytes": peak, "versions": used}))


if __name__ == "__main__":
    main()
