"""A run from recipe to report, or from its last good checkpoint on."""

from collections.abc import Sequence
from datetime import date
from pathlib import Path

from luthier.core.errors import RunError
from luthier.core.events import EVENTS_FILE
from luthier.core.files import read_json, write_json, write_text
from luthier.core.lock import RunLock
from luthier.core.plan_files import PLAN_FILE
from luthier.recipe import Recipe, dump_recipe, load_recipe
from luthier.stages.check import Check, costs, require_new
from luthier.stages.facts import run_facts
from luthier.stages.interrupt import Interrupt
from luthier.stages.manifest import MANIFEST_FILE, manifest_of
from luthier.stages.plan import resume_plan, train_plan
from luthier.stages.plan_check import PlanCheck, check_plan
from luthier.stages.prepare import Say, prepare
from luthier.stages.result import Outcome, TrainResult, complete, ended
from luthier.stages.session import Listener, Session, load_base
from luthier.stages.stage import Begin, going_on, run_stage

__all__ = ["TrainResult", "resume", "train"]


def train(
    recipe: Recipe,
    *,
    say: Say | None = None,
    listen: Listener | None = None,
    checked: Check | PlanCheck | None = None,
) -> TrainResult:
    """Run the recipe from the start, all of its stages.

    Args:
        say: receives the progress of rendering and evaluating.
        listen: receives every event as it is written.
        checked: the result of `check` on this recipe, if it was made already.

    Raises:
        LuthierError: what stops the run; nothing that was saved is lost.
    """
    assert checked is None or checked.recipe == recipe, "the check was of another recipe"
    run_dir = Path(recipe.output_dir)
    require_new(run_dir)  # before the folder is made, and again when nobody else can fill it
    make_folder(run_dir)
    with RunLock(run_dir):
        require_new(run_dir)
        if recipe.stages:
            whole = checked if isinstance(checked, PlanCheck) else check_plan(recipe, say=say)
            return train_plan(whole, run_dir, say=say, listen=listen)
        alone = checked if isinstance(checked, Check) else costs(prepare(recipe, say=say))
        return _begin(alone, run_dir, say, listen)


def _begin(checked: Check, run_dir: Path, say: Say | None, listen: Listener | None) -> TrainResult:
    # What a damaged model can stop comes first, because files make the folder a run.
    decoder, facts = load_base(checked.prepared), run_facts(checked)
    with Interrupt() as interrupt:
        session = Session(checked, run_dir, decoder, facts, interrupt=interrupt, say=say, listen=listen)
        write_text(run_dir / "recipe.yaml", dump_recipe(checked.prepared.recipe))
        write_json(run_dir / MANIFEST_FILE, manifest_of(checked, facts))
        return run_stage(session, Begin())


def resume(
    run_dir: str | Path,
    *,
    say: Say | None = None,
    listen: Listener | None = None,
    accept: Sequence[str] = (),
) -> TrainResult:
    """Go on with an interrupted or crashed run from its newest whole checkpoint (from the start if it had none yet).

    Args:
        accept: names of what may have changed since, as the refusal lists them.

    Raises:
        RunError: not a run folder, a finished run, or one that is made of something else by now.
    """
    run_dir = Path(run_dir)
    if not (run_dir / EVENTS_FILE).is_file() or not (run_dir / "recipe.yaml").is_file():
        raise RunError("not a run folder", where=str(run_dir), fix="luthier runs list shows runs")
    if (run_dir.absolute().parent.parent / PLAN_FILE).is_file():
        whole = run_dir.absolute().parent.parent
        raise RunError("this is a stage of a training", where=str(run_dir), fix=f"luthier train --resume {whole}")
    with RunLock(run_dir):
        recipe = load_recipe(run_dir / "recipe.yaml").recipe.model_copy(update={"output_dir": str(run_dir)})
        if recipe.stages or (run_dir / PLAN_FILE).is_file():
            return resume_plan(run_dir, recipe, say=say, listen=listen, accept=accept)
        if (outcome := ended(run_dir)) is not None:
            return _completed(run_dir, outcome)
        today = date.fromisoformat(read_json(run_dir / MANIFEST_FILE)["today"])
        checked = costs(prepare(recipe, today=today, say=say))
        facts = run_facts(checked)
        begin = going_on(run_dir, facts, tuple(accept))
        if begin.checkpoint is None:
            return _begin(checked, run_dir, say, listen)
        decoder = load_base(checked.prepared)
        with Interrupt() as interrupt:
            session = Session(checked, run_dir, decoder, facts, interrupt=interrupt, say=say, listen=listen)
            return run_stage(session, begin)


def _completed(run_dir: Path, outcome: Outcome) -> TrainResult:
    if (result := complete(run_dir, outcome)) is not None:
        return result
    told = outcome.text or outcome.status
    raise RunError(
        f"this run is finished{'' if told == 'finished' else f': {told}'}",
        where=str(run_dir),
        fix="start another with another output_dir to train further",
    )


def make_folder(run_dir: Path) -> None:
    """Make the folder of a run.

    Raises:
        RunError: the system refuses.
    """
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(
            f"the folder cannot be made ({error.strerror})", where=str(run_dir), fix="choose another output_dir"
        ) from None
