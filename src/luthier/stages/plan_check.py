"""A training in stages, checked as a whole before its first stage begins."""

from dataclasses import dataclass
from datetime import date
from pathlib import Path

from luthier.core.errors import DataError, LuthierError, RunError
from luthier.core.hardware import free_disk
from luthier.evaluate.interval import FEWEST_UNITS
from luthier.recipe import Recipe, stage_recipe
from luthier.stages.check import Check, costs
from luthier.stages.prepare import Gathered, Opened, Prepared, Say, gather, open_model, prepare_rows


@dataclass(frozen=True)
class PlanCheck:
    """The stages of a recipe, each prepared and with its costs, in order."""

    recipe: Recipe
    stages: list[Check]

    @property
    def disk_bytes(self) -> int:
        """What the run's folder will take at most: stages keep their checkpoints."""
        return sum(check.disk_bytes for check in self.stages)

    def close(self) -> None:
        """End the template's process, which the stages share."""
        self.stages[0].prepared.close()


def check_plan(recipe: Recipe, *, today: date | None = None, say: Say | None = None) -> PlanCheck:
    """Read, render and check all stages; no weight is loaded and the output folder is not touched.

    Args:
        today: what templates that write a date shall write; a resumed training gives its first day.
        say: receives progress.

    Raises:
        LuthierError: what would stop one of the stages, with its name; or rows that one trains on and another is
            measured by; or a disk without room for all.
    """
    recipes = [stage_recipe(recipe, index) for index in range(len(recipe.stages))]
    names = [stage.name for stage in recipe.stages]
    opened = open_model(recipes[0], today=today)
    gathered = {name: _gathered(name, alone, opened) for name, alone in zip(names, recipes, strict=True)}
    stages = []
    for stage, name, alone in zip(recipe.stages, names, recipes, strict=True):
        try:
            prepared = _prepared(name, alone, opened, gathered, say)
            _require_enough(stage.gate, prepared)
            stages.append(costs(prepared, more_stages=name != names[-1]))
        except LuthierError as error:
            raise _of_stage(name, error) from None
    plan = PlanCheck(recipe, stages)
    run_dir = Path(recipe.output_dir)
    if (free := free_disk(run_dir)) < plan.disk_bytes:
        raise RunError(
            f"the stages need {plan.disk_bytes / 1e9:.1f} GB on disk and {free / 1e9:.1f} GB are free",
            where=str(run_dir),
            fix="free some space, or lower lora_r or keep_checkpoints, or put output_dir on another disk",
        )
    return plan


def _gathered(name: str, recipe: Recipe, opened: Opened) -> Gathered:
    try:
        return gather(recipe, opened)
    except LuthierError as error:
        raise _of_stage(name, error) from None


def _prepared(name: str, recipe: Recipe, opened: Opened, gathered: dict[str, Gathered], say: Say | None) -> Prepared:
    others = {other: records for other, records in gathered.items() if other != name}
    return prepare_rows(recipe, opened, gathered[name], others=others, say=say)


def _require_enough(gate: str, prepared: Prepared) -> None:
    """No stage is trained in vain: of few rows nothing can be said to be clearly better."""
    if gate == "better" and len(prepared.val) < FEWEST_UNITS:
        raise DataError(
            f"gate is better, which cannot be told from {len(prepared.val)} held-out rows: {FEWEST_UNITS} are needed",
            fix="hold out more (val_set_size, val_datasets), or set gate to not worse",
        )


def _of_stage(name: str, error: LuthierError) -> LuthierError:
    return type(error)(f"stage {name}: {error.what}", where=error.where, fix=error.fix)
