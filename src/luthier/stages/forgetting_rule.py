"""What counts as forgetting, and what is done about it: a rule over measurements, without a model.

Two probes are judged: the loss on held-out general rows and the share of right answers to questions with options. Each
is compared with the base's on the same rows or questions, so the comparisons are paired; both are tested at each
evaluation, so the levels are Holm's (S. Holm, "A Simple Sequentially Rejective Multiple Test Procedure", Scandinavian
Journal of Statistics 6 (1979) 65-70). One bad evaluation is a suspicion; two in a row are acted upon.

Texts that the base wrote itself are what it finds likeliest, so any other style raises their loss though nothing is
lost: SmolLM2-135M that had learned grade-school maths without replay had 0.26 to 0.35 nats more on its own texts, and
90 questions right where it had 80 (`benchmarks/steady/forgetting.py`). The budget for such texts is eight times as
large; the questions are judged as ever.

How far the next-token distribution has moved on the new task, and the loss there, are measured beside them: the first
is shown, the second tells forgetting that buys something from forgetting that does not. Answers that are surely lost,
by however little, weigh as much as a bad evaluation where more of them were lost since the task was last surely better.
And a model that goes less by the prompts of its task than the base did learns from wrong labels; see `prompt_rule`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from luthier.core.readable import SPACE, decimal
from luthier.evaluate.interval import Change, paired_change
from luthier.stages.prompt_rule import PromptUse, prompt_use
from luthier.train.progress import Progress

DEFAULT_BUDGET = 0.08  # nats a token; the other limits are in proportion to this one
WARN_SHARE = 0.03 / DEFAULT_BUDGET
SURELY_TIMES = 3  # budgets: forgetting that no ladder is climbed for
CHOICES_WARN, CHOICES_BAD = -0.01, -0.03  # change of the share of right answers
ACT_AFTER = 2  # evaluations in a row
SHARES = (0.05, 0.1, 0.2)  # of replay, one after the other
RATE_FACTOR = 0.5
KL_WEIGHT = 1.0  # a replayed token's KL counts as much as its own loss

UNRELATED = "unrelated"  # in the state: evaluations in a row
NOT_BY_PROMPTS = (
    "the answers do not go by their prompts: see whether each stands with its own (if they are right, max_forgetting: "
    "null turns the watch off)"
)

BASE, KEPT, WARNING, BAD, UNKNOWN = "base", "kept", "warning", "too much", "too few rows to tell"
FORGETTING = "forgetting"  # the status of a run that is stopped for it


@dataclass(frozen=True)
class Measured:
    """A model on the same rows and questions as another.

    Attributes:
        nll, tokens: (n,) summed loss and label tokens of each general row.
        right: (m,) bool, of each question.
        target_nll, target_tokens: (t,) the same as the first two for rows of the new task.
        kl, positions: (t,) KL from the base summed over a row's positions, and how many they are.
        own_nll, other_nll, answer_tokens: (m,) summed loss of first answers of the new task after their own prompts,
            and after those of other rows; and their tokens.
    """

    nll: np.ndarray
    tokens: np.ndarray
    right: np.ndarray
    target_nll: np.ndarray
    target_tokens: np.ndarray
    kl: np.ndarray
    positions: np.ndarray
    own_nll: np.ndarray
    other_nll: np.ndarray
    answer_tokens: np.ndarray

    @property
    def loss(self) -> float | None:
        """Nats a general label token, None without such rows."""
        return float(self.nll.sum() / self.tokens.sum()) if len(self.nll) else None


@dataclass(frozen=True)
class Judgement:
    """What one evaluation says; changes are against the base, with 95 % intervals, None without rows.

    Attributes:
        loss: of the general loss, nats a token.
        right: of the share of right answers.
        target: of the loss on the new task's rows.
        kl: KL from the base there, nats a position.
        prompts: how far the model goes by the prompts there.
        verdict: KEPT, WARNING, BAD or UNKNOWN.
        surely: the general loss is beyond `SURELY_TIMES` budgets with its whole interval.
        gained: the target is surely better than at its best before.
        idle: it is not, and more was forgotten since: too much was, and the general loss has not surely recovered; or
            answers are surely lost, and more of them than then.
        inside: the estimates are inside the budget.
    """

    loss: Change | None
    right: Change | None
    target: Change | None
    kl: Change | None
    prompts: PromptUse | None
    verdict: str
    surely: bool
    gained: bool
    idle: bool
    inside: bool

    @property
    def unrelated(self) -> bool:
        """The model goes less by the prompts than the base, or not at all as the base."""
        return self.prompts is not None and self.prompts.unrelated


def judge(
    base: Measured,
    now: Measured,
    groups: tuple[Sequence[str], Sequence[str], Sequence[str]],
    *,
    budget: float,
    seed: int,
    before: Measured | None = None,
) -> Judgement:
    """Compare with the base.

    Args:
        before: the last evaluation at which the target had surely gained; None is the base.
        groups: of the general rows, of the new task's rows, and of its first answers.
        budget: what the general loss may rise, nats a token.
    """
    warn = WARN_SHARE * budget
    if not all(np.isfinite(values).all() for values in (now.nll, now.target_nll, now.kl, now.own_nll, now.other_nll)):
        return Judgement(None, None, None, None, None, BAD, surely=True, gained=False, idle=False, inside=False)

    def loss(tests: int = 1) -> Change | None:
        if not len(base.nll):
            return None
        return paired_change(base.nll, now.nll, base.tokens, groups[0], seed=seed, picked=tests)

    def right(tests: int = 1) -> Change | None:
        if not len(base.right):
            return None
        ones, alone = np.ones(len(base.right)), [""] * len(base.right)
        return paired_change(base.right, now.right, ones, alone, seed=seed, picked=tests)

    def too_much(tests: int) -> bool:
        change = loss(tests)
        return change is not None and change.change > budget and _low(change) > warn

    def fewer(tests: int) -> bool:
        change = right(tests)
        return change is not None and _high(change) < CHOICES_BAD

    general, answers = loss(), right()
    rose = general is not None and _low(general) > warn
    lost = answers is not None and _high(answers) < CHOICES_WARN
    # Holm: of two tests the surest is held to half of the 5 %; whether any is bad is decided there.
    bad = too_much(tests=2) or fewer(tests=2)
    target = since = kl = prompts = None
    earlier = base if before is None else before
    if len(base.target_nll):
        target = paired_change(base.target_nll, now.target_nll, base.target_tokens, groups[1], seed=seed)
        since = paired_change(earlier.target_nll, now.target_nll, base.target_tokens, groups[1], seed=seed)
        kl = paired_change(np.zeros(len(now.kl)), now.kl, now.positions, groups[1], seed=seed)
        sides = [(side.own_nll, side.other_nll) for side in (base, now, earlier)]
        prompts = prompt_use(*sides, base.answer_tokens, groups[2], seed=seed)
    known = [change for change in (general, answers) if change is not None and change.interval is not None]
    cannot = general is not None and general.interval is None  # too few general texts for a judgement
    unrelated = prompts is not None and prompts.unrelated
    told_apart = WARNING if rose or lost else KEPT
    verdict = BAD if bad else WARNING if unrelated else UNKNOWN if not known or cannot else told_apart
    within = general is None or cannot or general.change <= budget
    recovers = bool(len(base.nll)) and paired_change(earlier.nll, now.nll, base.tokens, groups[0], seed=seed).fell
    fewer_since = bool(len(base.right)) and now.right.mean() - earlier.right.mean() < CHOICES_WARN
    stands = since is not None and since.interval is not None and not since.fell
    return Judgement(
        loss=general,
        right=answers,
        target=target,
        kl=kl,
        prompts=prompts,
        verdict=verdict,
        surely=general is not None and _low(general) > SURELY_TIMES * budget,
        gained=since is not None and since.fell,
        idle=stands and ((bad and not recovers) or (lost and fewer_since)),
        inside=within and not (answers is not None and _high(answers) < CHOICES_BAD),
    )


def _low(change: Change) -> float:
    """The interval's lower end; without an interval nothing is sure."""
    return -np.inf if change.interval is None else change.interval[0]


def _high(change: Change) -> float:
    return np.inf if change.interval is None else change.interval[1]


@dataclass(frozen=True)
class Action:
    """What is done: "replay", "rate", "kl" or "stop", the value it leads to, and why, for a person."""

    what: str
    value: float
    text: str


def count(judgement: Judgement, state: dict[str, Any]) -> None:
    """Count an evaluation; in `state`, JSON values, are numbers of evaluations in a row."""
    state["evaluations"] = state.get("evaluations", 0) + 1
    found = {
        "bad": judgement.verdict == BAD,
        "surely": judgement.surely,
        "idle": judgement.idle,
        UNRELATED: judgement.unrelated,
    }
    for name, so in found.items():
        state[name] = state.get(name, 0) + 1 if so else 0


def by_no_prompts(state: dict[str, Any]) -> bool:
    """Whether what was learned is not to be used, as the answers do not go by their prompts."""
    return state.get(UNRELATED, 0) >= ACT_AFTER


def act(judgement: Judgement, state: dict[str, Any], progress: Progress, *, can_replay: bool) -> Action | None:
    """Take the next step of the ladder where two evaluations in a row were bad.

    Args:
        state: with this evaluation counted.
        progress: `replay_share`, `rate_scale` and `kl_weight` are changed here.
        can_replay: there are rows to replay.
    """
    if by_no_prompts(state):
        return _stop(NOT_BY_PROMPTS)
    if state["surely"] >= ACT_AFTER:
        return _stop(f"the general loss rose by more than {SURELY_TIMES} times what is allowed")
    if state["idle"] >= ACT_AFTER or (state["bad"] >= ACT_AFTER and judgement.idle):
        return _stop("the base's abilities are being lost, and the target gets no better")
    if state["bad"] < ACT_AFTER:
        return None
    state["bad"] = 0
    higher = [share for share in SHARES if share > progress.replay_share + 1e-9]
    if can_replay and higher:
        before, progress.replay_share = progress.replay_share, higher[0]
        return Action("replay", higher[0], f"replay: {_percent(before)} → {_percent(higher[0])} of the loss tokens")
    if not state.get("rate"):
        state["rate"] = True
        progress.rate_scale *= RATE_FACTOR
        return Action("rate", progress.rate_scale, "the learning rate is halved")
    if can_replay and progress.kl_weight == 0:
        progress.kl_weight = KL_WEIGHT
        return Action("kl", KL_WEIGHT, "replayed rows are held near the base's answers (KL)")
    return _stop("nothing that was tried keeps general texts within what is allowed")


def _stop(why: str) -> Action:
    return Action("stop", 0.0, f"the run is ended: {why} ({ACT_AFTER} evaluations in a row)")


def told(base: Measured, now: Measured, judgement: Judgement, *, budget: float) -> str:
    """One sentence or two on an evaluation, for a person."""
    parts = []
    if judgement.loss is not None and base.loss is not None and now.loss is not None:
        parts.append(
            f"general texts: loss {decimal(base.loss, 3)} → {decimal(now.loss, 3)} ({_signed(judgement.loss)} nats a "
            f"token, {decimal(budget, 2)} allowed)"
        )
    if judgement.right is not None:
        parts.append(f"questions: {int(base.right.sum())} → {int(now.right.sum())} of {len(base.right)} right")
    if judgement.kl is not None:
        parts.append(f"moved from the base on the task by {decimal(judgement.kl.change, 3)} nats a token (KL)")
    if judgement.prompts is not None:
        hardly = ", so the answers go less by them than they should" if judgement.unrelated else ""
        parts.append(judgement.prompts.text + hardly)
    return f"{judgement.verdict}: " + ("; ".join(parts) or "a loss is not finite")


def _signed(change: Change) -> str:
    sign = "+" if change.change >= 0 else ""
    if change.interval is None:
        return f"{sign}{decimal(change.change, 3)}"
    low, high = (decimal(end, 3) for end in change.interval)
    return f"{sign}{decimal(change.change, 3)}, 95{SPACE}% interval {low} to {high}"


def _percent(share: float) -> str:
    return f"{share * 100:g}{SPACE}%"
