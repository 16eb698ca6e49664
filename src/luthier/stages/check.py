"""What a run will do and what could stop it, told before anything is loaded."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from luthier.core.errors import RunError
from luthier.core.events import EVENTS_FILE
from luthier.core.hardware import free_disk, memory
from luthier.models.fallback_spec import FallbackSpec
from luthier.models.lora import adapter_size, named_targets
from luthier.models.spec import Spec
from luthier.models.weights import base_bytes, loss_bytes, without_effect
from luthier.recipe import Recipe
from luthier.stages.prepare import Prepared, Say, prepare
from luthier.train.advice import Facts, advice
from luthier.train.optim import DTYPES, state_bytes, trained_bytes

if TYPE_CHECKING:
    from luthier.stages.plan_check import PlanCheck

DISK_RESERVE = 64 * 2**20  # events, report, TensorBoard files
PROCESS_BYTES = 450 * 2**20  # Python, torch and its libraries, measured
# On a CPU, freed buffers of other sizes and oneDNN's compiled primitives stay beside the activations: measured on the
# quick start, whose 0.5 GB of activations end as a peak of 2.9 GB.
CPU_SLACK = 3.5


@dataclass(frozen=True)
class Check:
    """A preparation and its costs.

    Attributes:
        adapter_parameters: weights that will be trained.
        disk_bytes: what the run folder will take at most.
        memory_bytes: estimated peak of host memory (CPU) or GPU memory.
        warnings: what does not stop the run and should be known.
        advice: what looks wrong in the recipe, with the numbers of this run and what to try.
    """

    prepared: Prepared
    adapter_parameters: int
    disk_bytes: int
    memory_bytes: int
    warnings: list[str]
    advice: list[str]

    @property
    def recipe(self) -> Recipe:
        """What was checked."""
        return self.prepared.recipe

    def close(self) -> None:
        """End the template's process."""
        self.prepared.close()


def held_bytes(spec: Spec, width: int) -> int:
    """Bytes of a layer's weights that are held unpacked beside the largest, where layers over NF4 run twice."""
    sizes = [m * sum(outs) for m, outs in spec.linear_shapes.values()]
    return (sum(sizes) - max(sizes)) * width


def activation_bytes(spec: Spec, width: int, *, recompute: bool = False, dora: bool = False) -> int:
    """Bytes a token that the backward pass keeps, in a dtype of `width` bytes: what each op of each layer saves.

    With `recompute` the input of every layer, and what the ops of one save. DoRA also keeps what each linear gives.
    """
    d, f, (q, k, v) = spec.hidden_size, spec.ffn_size, spec.qkv_sizes
    layer = (
        2 * d + 2 * d + (q + k + v) + q + 2 * f + f
    )  # norm inputs, linear inputs, packed q|k|v, o's, SwiGLU's, down's
    layer += 2 * d * spec.after_norms + (q + k + v) * spec.head_norms  # the inputs of those norms
    if dora:
        layer += sum(sum(outs) for _, outs in spec.linear_shapes.values())
    return (spec.num_layers * d + layer if recompute else spec.num_layers * layer) * width


def require_new(run_dir: Path) -> None:
    """Refuse an output folder that already holds something.

    Raises:
        RunError: a run is there, or other files are.
    """
    if (run_dir / EVENTS_FILE).exists():
        raise RunError(
            "holds a run already",
            where=str(run_dir),
            fix=f"luthier train --resume {run_dir} goes on with it; otherwise choose another output_dir",
        )
    if run_dir.exists() and (not run_dir.is_dir() or any(p.name != ".lock" for p in run_dir.iterdir())):
        raise RunError("exists and is not empty", where=str(run_dir), fix="choose another output_dir")


def check(recipe: Recipe, *, say: Say | None = None, new: bool = True) -> "Check | PlanCheck":
    """Check recipe, data, model, memory and disk; no weight is loaded and the output folder is not touched.

    Close the result when done. Of a recipe with stages it has a check for each.

    Args:
        say: receives progress of rendering.
        new: the output folder must be new (False when resuming).

    Raises:
        LuthierError: what would stop the run.
    """
    run_dir = Path(recipe.output_dir)
    if new:
        require_new(run_dir)
    if recipe.stages:
        from luthier.stages.plan_check import check_plan  # which asks this file for the costs of each

        return check_plan(recipe, say=say)
    return costs(prepare(recipe, say=say))


def costs(prepared: Prepared, *, more_stages: bool = False) -> Check:
    """Disk and memory of a prepared run, and advice on its recipe.

    Args:
        more_stages: other stages follow this one.

    Raises:
        RunError: the disk has no room for the run's checkpoints.
    """
    recipe, spec = prepared.recipe, prepared.spec
    run_dir = Path(recipe.output_dir)
    parameters = adapter_size(spec, recipe.lora_r, named_targets(recipe.lora_targets, spec), dora=recipe.dora)
    # Weights and two moments a checkpoint; the newest ones, the best one, two that a rewind may want, one in the
    # making; and the adapter itself.
    weights = parameters * DTYPES[recipe.adapter_dtype].itemsize
    disk = (recipe.keep_checkpoints + 4) * (weights + state_bytes(parameters, recipe.optim)) + weights + DISK_RESERVE
    free = free_disk(run_dir)
    if free < disk:
        raise RunError(
            f"the run needs {disk / 1e9:.1f} GB on disk and {free / 1e9:.1f} GB are free",
            where=str(run_dir),
            fix="free some space, or lower lora_r or keep_checkpoints, or put output_dir on another disk",
        )
    longest = max(len(row.ids) for row in [*prepared.train, *prepared.val])
    stream = max(prepared.settings.micro_batch_tokens, longest)
    width = prepared.place.dtype.itemsize
    if isinstance(spec, FallbackSpec):
        kept, unpacked = spec.activation_bytes(width, longest, recompute=recipe.gradient_checkpointing), 0
    else:
        kept = activation_bytes(spec, width, recompute=recipe.gradient_checkpointing, dora=recipe.dora)
        unpacked = held_bytes(spec, width) if recipe.nf4 and recipe.gradient_checkpointing else 0
    # While rates are tried, weights and gradient are kept beside those that are used, and so are two more moments.
    tested = 2 * weights + state_bytes(parameters, recipe.optim) if recipe.learning_rate == "auto" else 0
    needed = int(
        base_bytes(
            spec,
            prepared.place.dtype,
            prepared.place.device,
            nf4=recipe.nf4,
            nf4_head=recipe.nf4_head,
            embedding_on_host=recipe.embedding_on_host,
        )
        + trained_bytes(parameters, recipe.optim, recipe.adapter_dtype)
        + tested
        + stream * kept * (CPU_SLACK if prepared.place.device.type == "cpu" else 1)
        + unpacked
        + loss_bytes(spec, prepared.place.dtype, prepared.place.device)
        + PROCESS_BYTES
    )
    warnings = []
    available = memory().available
    if prepared.place.device.type == "cpu" and available and needed > available:
        warnings.append(
            f"about {needed / 1e9:.1f} GB of memory are needed and {available / 1e9:.1f} GB are available: "
            "lower micro_batch_tokens or sequence_len, or choose a smaller model"
        )
    place = prepared.place
    warnings += without_effect(
        spec, place.dtype, place.device, nf4_head=recipe.nf4_head, embedding_on_host=recipe.embedding_on_host
    )
    if not prepared.val:
        warnings.append("nothing is held out, so the run cannot tell whether the model got better: set val_set_size")
    if longest > spec.max_positions:
        warnings.append(f"the longest row has {longest} tokens; the model was made for {spec.max_positions}")
    facts = Facts(
        train_rows=len(prepared.train),
        train_tokens=prepared.train_tokens,
        label_tokens=prepared.label_tokens,
        longest=max(len(row.ids) for row in prepared.train),
        cut_rows=sum(len(row.ids) == recipe.sequence_len for row in prepared.train),
        held_out_groups=len({row.group for row in prepared.val}),
        adapter_parameters=parameters,
        more_stages=more_stages,
    )
    return Check(prepared, parameters, disk, needed, warnings, advice(recipe, spec, prepared.settings, facts))
