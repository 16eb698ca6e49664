"""What `auto` means, decided from the data and the model before anything is loaded."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from luthier.data.pack import Step, plan_run
from luthier.models.fallback_spec import AnySpec
from luthier.recipe import Recipe

CPU_MICRO_TOKENS = 1024  # larger streams are no faster on two cores and cost 0.5 MB a token at 135M parameters
GPU_MICRO_TOKENS = 4096
SMALL_RUN_STEPS = 50  # a batch never gets so large that a run has fewer steps, down to 1024 tokens a step
# In a run, besides the one before its first step. Overfitting comes after the first epoch, and takes an alarm of two
# validations and a patience of three.
FEWEST_VALIDATIONS, PER_EPOCH, MOST_VALIDATIONS = 4, 3, 20
USUAL_STRENGTH = 32.0  # the alpha for which the formula of the learning rate was measured
MAX_SAVE_STEPS = 50  # steps between checkpoints, at most


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A recipe with every `auto` decided, and the plan of steps that follows from it."""

    batch_tokens: int
    micro_batch_tokens: int
    learning_rate: float
    eval_steps: int
    save_steps: int
    steps: list[tuple[int, Step]]  # (epoch, microsteps of row indices)
    notes: list[str]  # one sentence for each decision

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return len(self.steps)


def auto_learning_rate(hidden_size: int, strength: float = USUAL_STRENGTH) -> float:
    """Peak learning rate for LoRA with AdamW: 2e-4 at a hidden size of 4096, falling with the size to the power 0.78.

    LoRA wants about ten times the rate of full fine-tuning, whatever its rank, and smaller models want more ("LoRA
    Without Regret", Thinking Machines 2025; the exponent is the one tinker-cookbook measured on Llama). It falls with
    the root of `strength`: what a step does to a layer's output is in proportion to the strength, but less is needed
    of a rate that moves A and B both. On a tiny model, four times the alpha wanted 1/2.1 of the rate.

    Args:
        strength: `adapter_strength` of the recipe.
    """
    return float(f"{2e-4 * (4096 / hidden_size) ** 0.78 * (USUAL_STRENGTH / strength) ** 0.5:.1e}")


def adapter_strength(recipe: Recipe) -> float:
    """What all ranks together are multiplied by: R times alpha / R, which is alpha; with rslora alpha · √R."""
    return recipe.lora_alpha * (recipe.lora_r**0.5 if recipe.rslora else 1.0)


def guessed_learning_rate(recipe: Recipe, spec: AnySpec) -> float:
    """The formula's peak rate for the recipe's adapter on a model of `spec`; at most 1."""
    return min(1.0, auto_learning_rate(spec.hidden_size, adapter_strength(recipe)))


def decide(recipe: Recipe, spec: AnySpec, lengths: Sequence[int], *, on_gpu: bool) -> Settings:
    """Decide every `auto` of the recipe for training rows of these lengths.

    Args:
        lengths: tokens of each training row, at least one.
        on_gpu: the run will be on a GPU.
    """
    notes = []
    tokens = int(np.sum(lengths))
    micro = recipe.micro_batch_tokens
    batch = recipe.batch_tokens
    if batch == "auto":
        rows_16 = 16 * tokens / len(lengths)
        batch = int(np.clip(min(rows_16, tokens * recipe.num_epochs / SMALL_RUN_STEPS), 1024, 32768) // 256 * 256)
        notes.append(f"batch_tokens: {batch} (about {max(1, round(batch * len(lengths) / tokens))} rows a step)")
    if micro == "auto":
        micro = min(batch, GPU_MICRO_TOKENS if on_gpu else CPU_MICRO_TOKENS)
        notes.append(f"micro_batch_tokens: {micro}")
    rate = recipe.learning_rate
    if rate == "auto":
        rate = guessed_learning_rate(recipe, spec)
        notes.append(
            f"learning_rate: {rate:g} (for hidden size {spec.hidden_size} and lora_alpha {recipe.lora_alpha}); a test "
            "before the first step may find a better one"
        )
    steps = plan_run(
        lengths,
        batch_tokens=batch,
        micro_batch_tokens=micro,
        seed=recipe.seed,
        num_epochs=recipe.num_epochs,
        max_steps=recipe.max_steps,
    )
    every = recipe.eval_steps
    if every == "auto":
        epochs = min(recipe.num_epochs, steps[-1][0] + 1)
        every = math.ceil(len(steps) / np.clip(math.ceil(PER_EPOCH * epochs), FEWEST_VALIDATIONS, MOST_VALIDATIONS))
        notes.append(f"eval_steps: {every}")
    save = recipe.save_steps
    if save == "auto":
        save = min(every, MAX_SAVE_STEPS)
        notes.append(f"save_steps: {save}")
    return Settings(
        batch_tokens=batch,
        micro_batch_tokens=micro,
        learning_rate=rate,
        eval_steps=every,
        save_steps=save,
        steps=steps,
        notes=notes,
    )
