"""Where a run stands: all that a checkpoint must know beside the weights and the optimizer's moments."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Progress:
    """Where a run stands. Every field is a JSON value; a resumed run reads all of them back.

    Attributes:
        step: places of the plan that are behind, whether an update was made there, the step was skipped, or a rewind
            jumped over it. The course of the learning rate and the rows of the next step follow from it.
        updates: optimizer updates among them.
        total_tokens, total_label_tokens, seconds: work done, work that a rewind threw away included.
        learning_rate: the peak that was decided at the start; 0 before.
        best_loss, best_step, stale_validations: the best validation, and how many came after it.
        rate_scale: what the learning rate is multiplied by; the guards and the watch on forgetting halve it.
        warm_from: step from which the rate rises anew, or -1.
        replay_share: share of the loss tokens that come from general data.
        replay_drawn: rows drawn from the endless stream of general rows.
        replay_owed: loss tokens of replay that the share asks for and no row has given yet, negative after a long row.
        kl_weight: weight of the term that holds answers to general prompts near the base; 0 is none.
        guard: state of the guards (`train.guards`).
        watch: state of the watches on overfitting and forgetting, kept by whoever evaluates.
        owes_validation: the validation of this step was cut short, and comes before the next step.
        stopped: the status with which the run ended before its plan did; empty while it goes on.
    """

    step: int = 0
    updates: int = 0
    total_tokens: int = 0
    total_label_tokens: int = 0
    seconds: float = 0.0
    learning_rate: float = 0.0
    best_loss: float | None = None
    best_step: int = 0
    stale_validations: int = 0
    rate_scale: float = 1.0
    warm_from: int = -1
    replay_share: float = 0.0
    replay_drawn: int = 0
    replay_owed: float = 0.0
    kl_weight: float = 0.0
    guard: dict[str, Any] = field(default_factory=dict)
    watch: dict[str, Any] = field(default_factory=dict)
    stopped: str = ""
    owes_validation: bool = False
