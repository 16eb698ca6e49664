"""The folder of a training in stages.

    RUN/recipe.yaml, events.jsonl, plan.json, report.html
    RUN/stages/01-broad/        a run folder of its own, with a recipe of its own and `adapter` or `rejected`
    RUN/adapter/                a copy of the last accepted stage's adapter, made when the training ends

`plan.json` says how far the training is; `PlanState` is its content. Events of the whole:

    start       {recipe, model, adapter, stages: [names], total_steps, machine, versions, ...}
    stage       {name, number (from 1), of, parent (name, "" is the base), path ("stages/01-broad"), resumed}
    gate        {stage, passed, text, status, gate, max_unlearning, adapter_sha256, parent_sha256,
                 base: comparison with the base or null, parent: comparison with the stage before or null,
                 earlier: [{stage, ...comparison of what that stage reached with what this one has on the same rows}]}
    resume {stage}, warning {text}, interrupted {stage}, end {status, stage, published, seconds}

A comparison is `evaluate.interval.Comparison` as an object. A stage's own events are those of a run; besides, `stage`
behind `start`, `heldout` with what the stage began with as `against`, `heldout_base` where that is not the base,
`earlier` {stage, ...comparison} and `gate`.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from luthier.core.errors import RunError
from luthier.core.files import read_json, write_json

PLAN_FILE = "plan.json"
WAITING, BEGUN, ACCEPTED, REJECTED = "waiting", "begun", "accepted", "rejected"


@dataclass
class StageState:
    """How far one stage is.

    Attributes:
        path: its folder, beside plan.json.
        state: WAITING, BEGUN, ACCEPTED or REJECTED.
        parent: name of the stage whose adapter it begins with; "" is none, the base alone.
        parent_sha256, adapter_sha256: of the adapter's weights file; "" where there is none (yet).
        facts: what it is made of (`stages.facts`), as far as it has begun.
        text: what its gate said.
    """

    name: str
    path: str
    state: str = WAITING
    parent: str = ""
    parent_sha256: str = ""
    adapter_sha256: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    text: str = ""


@dataclass
class PlanState:
    """How far a training in stages is.

    Attributes:
        today: what templates that write a date write.
        status: "" while it is under way; "finished" or "not accepted".
        published: the stage whose adapter the run's `adapter` is; "" is none.
    """

    today: str
    stages: list[StageState]
    status: str = ""
    published: str = ""

    @property
    def accepted(self) -> list[StageState]:
        """The stages that passed their gates, in order."""
        return [stage for stage in self.stages if stage.state == ACCEPTED]


def write_plan(run_dir: Path, plan: PlanState) -> None:
    """Write `plan.json`, whole or not at all."""
    write_json(run_dir / PLAN_FILE, {"format": 1, **asdict(plan)})


def read_plan(run_dir: Path) -> PlanState:
    """What `plan.json` says.

    Raises:
        RunError: it is damaged, or of a newer version.
    """
    path = run_dir / PLAN_FILE
    try:
        value = read_json(path)
        if value.pop("format") != 1:
            raise RunError("written by a newer version of Luthier", where=str(path), fix="use that version")
        return PlanState(**{**value, "stages": [StageState(**stage) for stage in value["stages"]]})
    except (ValueError, KeyError, TypeError, AttributeError):
        raise RunError("damaged: it cannot be read", where=str(path), fix="start anew in another output_dir") from None
