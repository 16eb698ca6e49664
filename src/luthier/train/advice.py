"""Advice on a recipe that looks wrong: what, the numbers of this run, and what to try.

Advice stops nothing, and a recipe that is sensible gets none. Each rule below has its border as a constant, set where
the trouble is likely rather than possible. Sources: "LoRA Without Regret" (Thinking Machines 2025) on rates, batches
and ranks; Biderman et al. 2024 (arXiv:2405.09673) on alpha.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from luthier.models.fallback_spec import AnySpec
from luthier.recipe import Recipe
from luthier.train.schedule import warmup_steps
from luthier.train.settings import Settings, guessed_learning_rate

RATE_FACTOR = 10  # from the formula's rate, either way
FEW_STEPS, USUAL_STEPS = 30, 50
LARGE_BATCH_ROWS, LARGE_BATCH_STEPS = 128, 300  # rows a step in a run of fewer steps
SMALL_BATCH_LABELS = 64  # trained tokens a step
LARGE_RANK, LARGE_RANK_RATIO = 32, 100  # from this rank on; weights for each trained token
SMALL_RANK_RATIO = 2  # trained tokens for each weight
SCALE_LOW, SCALE_HIGH = 1 / 16, 8  # alpha / rank
RSLORA_HIGH = 32  # alpha / √rank
LONG_WARMUP = 1 / 3
MANY_EPOCHS, LITTLE_DATA = 5, 1000  # passes over fewer rows
CUT_SHARE = 0.1  # of the rows
ROOMY, USUAL_LENGTH = 8, 2048  # times the longest row, of a sequence_len above the default
FEW_HELD_OUT = 16  # groups of rows
FEW_VALIDATIONS = 3
SHORT_TRIAL = 20  # steps; a shorter run is only a trial


@dataclass(frozen=True, kw_only=True)
class Facts:
    """The numbers of a run that its advice rests on.

    Attributes:
        train_rows, train_tokens, label_tokens: of one pass over the training rows; label tokens are trained on.
        longest: tokens of the longest training row.
        cut_rows: training rows that are exactly as long as `sequence_len` allows.
        held_out_groups: groups of validation rows; 0 is no validation.
        adapter_parameters: trained weights.
        more_stages: other stages follow.
    """

    train_rows: int
    train_tokens: int
    label_tokens: int
    longest: int
    cut_rows: int
    held_out_groups: int
    adapter_parameters: int
    more_stages: bool = False

    def passes(self, settings: Settings) -> float:
        """How often the run sees each row."""
        return sum(len(microstep) for _, step in settings.steps for microstep in step) / self.train_rows


Rule = Callable[[Recipe, AnySpec, Settings, Facts], str]


def advice(recipe: Recipe, spec: AnySpec, settings: Settings, facts: Facts) -> list[str]:
    """What looks wrong in the recipe, in the order of `RULES`; nothing where all looks well."""
    return [text for rule in RULES if (text := rule(recipe, spec, settings, facts))]


def _rate(recipe: Recipe, spec: AnySpec, settings: Settings, facts: Facts) -> str:
    if recipe.learning_rate == "auto":
        return ""
    rate, usual = recipe.learning_rate, guessed_learning_rate(recipe, spec)
    if usual / RATE_FACTOR <= rate <= usual * RATE_FACTOR:
        return ""
    times, word = (rate / usual, "above") if rate > usual else (usual / rate, "below")
    danger = "the run may diverge" if rate > usual else "the run may learn next to nothing"
    return (
        f"learning_rate: {rate:g} is {times:.0f} times {word} what fits an adapter of lora_alpha {recipe.lora_alpha} "
        f"on a model of hidden size {spec.hidden_size}, about {usual:g}, so {danger}; try {usual:g}, or auto"
    )


def _few_steps(recipe: Recipe, spec: AnySpec, settings: Settings, facts: Facts) -> str:
    steps = settings.total_steps
    if steps >= FEW_STEPS or recipe.max_steps is not None:
        return ""
    smaller = settings.batch_tokens * steps // USUAL_STEPS // 64 * 64
    shown = f"the run has only {steps} step{'s' if steps > 1 else ''} of about {settings.batch_tokens:,} tokens"
    if recipe.batch_tokens != "auto" and smaller >= facts.train_tokens / facts.train_rows and smaller >= 256:
        return (
            f"batch_tokens: {shown}, and a LoRA bears large batches worse than full training does; try {smaller:,}, "
            f"for about {USUAL_STEPS} steps"
        )
    epochs = math.ceil(recipe.num_epochs * USUAL_STEPS / steps)
    return f"num_epochs: {shown}, which is little to learn from; try more rows, or num_epochs: {epochs}"


def _large_batch(recipe: Recipe, spec: AnySpec, settings: Settings, facts: Facts) -> str:
    rows = settings.batch_tokens * facts.train_rows / facts.train_tokens
    steps = settings.total_steps
    if rows <= LARGE_BATCH_ROWS or not FEW_STEPS <= steps < LARGE_BATCH_STEPS:
        return ""
    return (
        f"batch_tokens: {settings.batch_tokens:,} are about {rows:.0f} rows a step, in {steps} steps, and a LoRA bears "
        f"large batches worse than full training does; try {settings.batch_tokens // 4:,}"
    )


def _small_batch(recipe: Recipe, spec: AnySpec, settings: Settings, facts: Facts) -> str:
    labels = settings.batch_tokens * facts.label_tokens / facts.train_tokens
    if labels >= SMALL_BATCH_LABELS:
        return ""
    larger = math.ceil(4 * SMALL_BATCH_LABELS * facts.train_tokens / facts.label_tokens / 256) * 256
    return (
        f"batch_tokens: a step of {settings.batch_tokens:,} tokens trains on about {labels:.0f}, so its gradient is "
        f"mostly noise; try {larger:,}"
    )


def _large_rank(recipe: Recipe, spec: AnySpec, settings: Settings, facts: Facts) -> str:
    weights, labels = facts.adapter_parameters, facts.label_tokens
    if recipe.lora_r < LARGE_RANK or weights <= LARGE_RANK_RATIO * labels:
        return ""
    return (
        f"lora_r: rank {recipe.lora_r} has {weights:,} weights for {labels:,} trained tokens, far more than so little "
        "data can fill: it costs memory and makes learning by heart easy; try 8 or 16"
    )


def _small_rank(recipe: Recipe, spec: AnySpec, settings: Settings, facts: Facts) -> str:
    weights, labels = facts.adapter_parameters, facts.label_tokens
    if labels <= SMALL_RANK_RATIO * weights:
        return ""
    rank = min(512, 2 ** math.ceil(math.log2(recipe.lora_r * labels / weights)))
    return (
        f"lora_r: rank {recipe.lora_r} has {weights:,} weights for {labels:,} trained tokens, and an adapter that is "
        f"small for its data stops learning early; try {rank}"
    )


def _scale(recipe: Recipe, spec: AnySpec, settings: Settings, facts: Facts) -> str:
    root = recipe.rslora
    scale = recipe.lora_alpha / (recipe.lora_r**0.5 if root else recipe.lora_r)
    if SCALE_LOW <= scale <= (RSLORA_HIGH if root else SCALE_HIGH):
        return ""
    usual = 2 * round(recipe.lora_r**0.5 if root else recipe.lora_r)
    return (
        f"lora_alpha: {recipe.lora_alpha} at rank {recipe.lora_r} multiplies the adapter by {scale:.2g}, which is "
        f"unusual; try lora_alpha: {usual}, and set with learning_rate how fast it learns"
    )


def _warmup(recipe: Recipe, spec: AnySpec, settings: Settings, facts: Facts) -> str:
    if recipe.warmup_ratio <= LONG_WARMUP:
        return ""
    steps = warmup_steps(settings.total_steps, recipe.warmup_ratio)
    return (
        f"warmup_ratio: the rate rises for {steps} of {settings.total_steps} steps and is hardly ever at its peak; "
        "try 0.05"
    )


def _epochs(recipe: Recipe, spec: AnySpec, settings: Settings, facts: Facts) -> str:
    passes = facts.passes(settings)
    if passes <= MANY_EPOCHS or facts.train_rows >= LITTLE_DATA or recipe.early_stopping_patience:
        return ""
    guard = (
        "early_stopping_patience: 2" if facts.held_out_groups else "val_set_size: 0.1 and early_stopping_patience: 2"
    )
    return (
        f"num_epochs: each of {facts.train_rows:,} rows is seen {passes:.1f} times, so few that they are soon known; "
        f"try 2 or 3, or {guard}"
    )


def _cut(recipe: Recipe, spec: AnySpec, settings: Settings, facts: Facts) -> str:
    if recipe.too_long != "cut" or facts.cut_rows <= CUT_SHARE * facts.train_rows:
        return ""
    return (
        f"sequence_len: {facts.cut_rows:,} of {facts.train_rows:,} rows reach {recipe.sequence_len} tokens, where "
        f"longer ones lose their end and the model learns no stop; try {2 * recipe.sequence_len}, or too_long: drop"
    )


def _roomy(recipe: Recipe, spec: AnySpec, settings: Settings, facts: Facts) -> str:
    if recipe.sequence_len <= USUAL_LENGTH or recipe.sequence_len < ROOMY * facts.longest:
        return ""
    return (
        f"sequence_len: {recipe.sequence_len:,}, and the longest row has {facts.longest:,} tokens. Nothing is padded, "
        "so it costs nothing; but if you expected longer rows, look at them with luthier data inspect"
    )


def _held_out(recipe: Recipe, spec: AnySpec, settings: Settings, facts: Facts) -> str:
    groups = facts.held_out_groups
    if not 0 < groups < FEW_HELD_OUT or settings.total_steps < SHORT_TRIAL:
        return ""
    if recipe.val_datasets:
        more = "try more rows in val_datasets"
    else:
        share = min(0.3, math.ceil(100 * recipe.val_set_size * FEW_HELD_OUT / groups) / 100)
        more = f"try val_set_size: {share:g}" if share > recipe.val_set_size else "try more data"
    return (
        f"val_set_size: n = {groups} groups of rows are held out, so few that only a large change is told from chance; "
        f"{more}"
    )


def _eval_steps(recipe: Recipe, spec: AnySpec, settings: Settings, facts: Facts) -> str:
    total = settings.total_steps
    times = math.ceil(total / settings.eval_steps)
    if not facts.held_out_groups or total < SHORT_TRIAL or times >= FEW_VALIDATIONS or facts.passes(settings) <= 1:
        return ""  # what is seen once is not learned by heart
    return (
        f"eval_steps: a run of {total} steps is validated {'once' if times == 1 else 'twice'} if that is done every "
        f"{settings.eval_steps}, so overfitting is not seen before it is over; try {max(1, total // 5)}, or auto"
    )


def _stages(recipe: Recipe, spec: AnySpec, settings: Settings, facts: Facts) -> str:
    if not facts.more_stages or recipe.lr_scheduler not in ("cosine", "linear"):
        return ""
    return (
        f"lr_scheduler: {recipe.lr_scheduler} takes the rate down over the whole stage, and another stage follows, "
        "which has to raise it again; try wsd, which stays at its peak and falls only at the end"
    )


RULES: tuple[Rule, ...] = (
    _rate, _few_steps, _large_batch, _small_batch, _large_rank, _small_rank, _scale, _warmup, _epochs, _cut, _roomy,
    _held_out, _eval_steps, _stages,
)  # fmt: skip
