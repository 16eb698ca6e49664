"""`luthier doctor`: what this machine is, what it reaches, and what it can train."""

import platform
from importlib import metadata
from pathlib import Path

from rich.table import Table

from luthier.cli.console import out, size
from luthier.core.hardware import cpu, free_disk, memory
from luthier.core.paths import home_dir

PACKAGES = ("luthier", "torch", "transformers", "tokenizers", "safetensors", "pydantic")
# Well-known models and their parameters.
MODELS = (("SmolLM2-135M", 0.135e9), ("Qwen2.5-0.5B", 0.494e9), ("Llama-3.2-1B", 1.24e9), ("Qwen2.5-3B", 3.09e9),
          ("Mistral-7B", 7.25e9), ("Llama-3.1-8B", 8.03e9))  # fmt: skip
# Of types that run through transformers' own modules.
THROUGH_TRANSFORMERS = (("OLMo-2-1B", 1.48e9), ("Granite-3.3-2B", 2.53e9))


def doctor() -> None:
    """Measure this machine and say what it can train."""
    import torch

    from luthier.models.device import choose_place, row_ops_on_cpu
    from luthier.models.measure import matmul_flops, memory_bandwidth
    from luthier.models.unpack import nf4_on_cpu
    from luthier.models.weights import held_copies

    facts, ram, place = cpu(), memory(), choose_place()
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="dim")
    table.add_column()
    table.add_row("system", f"{platform.system()} {platform.machine()}, Python {platform.python_version()}")
    table.add_row("processor", f"{facts.name}, {facts.cores} cores, {torch.get_num_threads()} threads")
    table.add_row("bf16", "in hardware" if facts.has_fast_bf16 else "not in hardware, so the CPU trains in fp32")
    table.add_row("4 bits", nf4_on_cpu())
    table.add_row("norms, gates", row_ops_on_cpu())
    table.add_row("memory", f"{size(ram.total)}, {size(ram.available)} available")
    table.add_row("disk", f"{size(free_disk(Path.cwd()))} free here, {size(free_disk(home_dir()))} at {home_dir()}")
    budget = ram.available
    if place.device.type == "cuda":
        free, total = torch.cuda.mem_get_info()
        table.add_row("gpu", f"{torch.cuda.get_device_name()}, {size(total)}, {size(free)} free")
        budget = free
    else:
        table.add_row("gpu", "none that torch can use")
    with out.status("measuring"):
        speeds = {name: matmul_flops(dtype, place.device) for name, dtype in
                  (("bf16", torch.bfloat16), ("fp32", torch.float32))}  # fmt: skip
        bandwidth = memory_bandwidth(place.device)
    table.add_row("products", ", ".join(f"{name} {speed / 1e9:,.0f} GFLOP/s" for name, speed in speeds.items()))
    table.add_row("memory speed", f"{bandwidth / 1e9:.0f} GB/s, read and written")
    table.add_row("versions", ", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES))
    table.add_row("runs in", place.why)
    out.print(table)

    width = place.dtype.itemsize
    speed = speeds[place.dtype_name]
    fits = Table("LoRA on", "memory", "fits", "tokens/s, at best", box=None, padding=(0, 2, 0, 0))
    for name, parameters in (*MODELS, *THROUGH_TRANSFORMERS):
        theirs = (name, parameters) in THROUGH_TRANSFORMERS  # whose weights are held once
        copies = 1 if theirs else held_copies(parameters, place.dtype, place.device)
        needed = parameters * width * copies * 1.15 + 1.2e9
        fits.add_row(
            f"{name} [dim]through transformers[/]" if theirs else name,
            size(needed),
            "[green]yes[/]" if needed < budget else "[red]no[/]",
            f"{speed / (4 * parameters):,.0f}",
        )
    out.print()
    out.print(fits)
    out.print(
        "[dim]Memory is an estimate for rows of about 1,000 tokens; luthier check judges your own recipe. "
        "The last column is the measured speed over the least work a step can have. What runs through transformers' "
        "own modules, like every decoder that no family of ours covers, stays further below it.[/]"
    )
