"""The GPU benchmark without a GPU: every row is there, the steps are sound, and no figure is made up."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

RUN = Path(__file__).parents[2] / "benchmarks/gpu/run.py"


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU it would measure")
def test_a_dry_run_has_every_row_and_no_figure(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    words = ["--shape", "tiny", "--segments", "2", "--length", "16", "--pass-segments", "1"]
    words += ["--warmup", "1", "--steps", "1", "--out", str(out)]
    ran = subprocess.run([sys.executable, RUN, *words], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    result = json.loads(out.read_text())
    rows = result["training"]
    assert [(row["checkpointing"], row["provider"]) for row in rows] == [
        (checkpointing, provider)
        for checkpointing in (False, True)
        for provider in ("luthier", "trl", "liger", "unsloth")
    ]
    ours = [row for row in rows if row["provider"] == "luthier"]
    for row in ours:
        assert row["status"] == "not measured" and "gradient above 0" in row["why"]
        assert len(row["steps"]) == 2 and all(step["grad_norm"] > 0 for step in row["steps"])
    assert ours[0]["steps"] == ours[1]["steps"]  # recomputing changes no bit
    others = {row["status"] for row in rows if row["provider"] != "luthier"}
    assert others <= {"not measured", "not installed"}
    kernels = result["kernels"]
    assert len(kernels) == 12 and {row["status"] for row in kernels} == {"not measured"}
    figures = ("seconds", "tokens_per_second", "share", "first_step_seconds", "peak_allocated_bytes")
    text = out.read_text()
    assert not any(f'"{figure}' in text for figure in figures) and result["ceilings"] == {}
    with out.with_suffix(".csv").open() as file:
        assert [row["status"] for row in csv.DictReader(file)] == [row["status"] for row in rows]
