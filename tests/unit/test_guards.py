"""The guards: what is flagged, what is remembered, and which rung of the ladder a step stands on."""

import json
import math

import numpy as np
import pytest

from luthier.train.diagnosis import diagnosis
from luthier.train.guards import MAX_REWINDS, NEAR, WINDOW, Guard, Verdict, rewound, trusted, worth_keeping
from luthier.train.progress import Progress

LOSS, NORM = 2.0, 1.0


def warm(number: int = 30, *, seed: int = 0, sigma: float = 0.2) -> Guard:
    """A guard that has seen `number` usual steps."""
    guard, rng = Guard({}), np.random.default_rng(seed)
    for step in range(1, number + 1):
        assert usual(guard, step, rng, sigma=sigma).action == "take"
    return guard


def usual(guard: Guard, step: int, rng: np.random.Generator, *, level: float = LOSS, sigma: float = 0.2) -> Verdict:
    loss, norm = level + 0.1 * rng.standard_normal(), NORM * math.exp(sigma * rng.standard_normal())
    return guard.judge(step, float(loss), norm)


def frozen(guard: Guard) -> str:
    """All that the statistics are made of."""
    return json.dumps({name: guard.state[name] for name in ("log_norms", "losses", "ema", "best_ema", "accepted")})


@pytest.mark.parametrize(
    ("loss", "norm", "said"),
    [
        (math.nan, NORM, "loss is not finite"),
        (math.inf, NORM, "loss is not finite"),
        (LOSS, math.nan, "gradient is not finite"),
        (LOSS, math.inf, "gradient is not finite"),
        (LOSS + 3, NORM, "loss is far above"),
        (LOSS, 10 * NORM, "gradient is far longer"),
    ],
)
def test_what_is_flagged_enters_no_statistic(loss: float, norm: float, said: str) -> None:
    guard = warm()
    before = frozen(guard)
    verdict = guard.judge(31, loss, norm)
    assert (verdict.action, verdict.skipped, verdict.count) == ("skip", True, 1)
    assert said in verdict.reason
    assert frozen(guard) == before
    assert guard.judge(32, LOSS, NORM).action == "take"
    json.dumps(guard.state, allow_nan=False)


def test_the_verdict_has_the_limit_that_was_passed() -> None:
    guard = warm()
    limits = guard.limits()
    assert guard.judge(31, LOSS + 3, NORM).numbers == {**limits, "limit": limits["loss_limit"]}
    assert guard.judge(32, LOSS, 10.0).numbers == {**limits, "limit": limits["norm_limit"]}
    assert guard.judge(33, LOSS, math.nan).numbers == {**limits, "limit": None}
    assert guard.judge(34, LOSS, NORM).numbers == limits


def test_non_finite_is_seen_from_the_first_step() -> None:
    guard = Guard({})
    assert guard.judge(1, math.nan, math.nan).action == "skip"
    assert guard.judge(2, LOSS, 0.0).action == "take", "a gradient of zero is finite"
    assert guard.state["log_norms"] == []


@pytest.mark.parametrize("seen", [4, 8, 15])
def test_early_limits_are_wide(seen: int) -> None:
    guard = warm(seen)
    assert guard.limits()["norm_limit"] == pytest.approx(10 * NORM, rel=0.5)
    assert guard.judge(seen + 1, LOSS, 50 * NORM).action == "skip"
    assert guard.judge(seen + 2, LOSS + 4, NORM).action == "skip"
    assert guard.judge(seen + 3, LOSS + 0.8, 4 * NORM).action == "take"
    assert warm(3).limits() == {"norm_limit": None, "loss_limit": None}


def test_a_quiet_window_does_not_alarm() -> None:
    guard = Guard({})
    for step in range(1, 40):
        assert guard.judge(step, LOSS, NORM).action == "take"
    assert guard.judge(40, LOSS + 0.4, 2 * NORM).action == "take"


def test_one_spike_does_not_hide_the_next() -> None:
    guard, rng = warm(40), np.random.default_rng(1)
    assert guard.judge(41, LOSS, 100 * NORM).action == "skip"
    for step in range(42, 71):
        assert usual(guard, step, rng).action == "take"
    assert guard.judge(71, LOSS, 10 * NORM).action == "skip"


def test_the_window_has_a_length() -> None:
    guard = warm(WINDOW + 20)
    assert len(guard.state["losses"]) == len(guard.state["log_norms"]) == WINDOW


def test_three_in_a_hundred_are_passed_over_and_a_fourth_is_not() -> None:
    guard, rng = warm(), np.random.default_rng(1)
    actions = {}
    for step in range(31, 31 + NEAR + 30):
        bad = step in (40, 60, 80, 139)  # the fourth is the hundredth step after the first
        actions[step] = (guard.judge(step, math.nan, math.nan) if bad else usual(guard, step, rng)).action
        if actions[step] == "rewind":
            break
    assert [step for step, action in actions.items() if action == "skip"] == [40, 60, 80]
    assert actions[139] == "rewind"
    guard, rng = warm(), np.random.default_rng(1)
    for step in range(31, 141):
        bad = step in (40, 60, 80, 140)
        assert (guard.judge(step, math.nan, math.nan) if bad else usual(guard, step, rng)).action != "rewind"


def test_the_trouble_began_with_the_first_of_the_skips_that_belong_together() -> None:
    guard, rng = warm(), np.random.default_rng(1)
    for step in range(31, 47):
        verdict = guard.judge(step, math.nan, NORM) if step in (33, 43, 44, 46) else usual(guard, step, rng)
    assert (verdict.action, verdict.began, verdict.count, verdict.skipped) == ("rewind", 43, 4, True)


def flag_until_it_acts(guard: Guard, step: int, loss: float, norm: float) -> tuple[Verdict, int]:
    for at in range(step, step + 10):
        verdict = guard.judge(at, loss, norm)
        if verdict.action != "skip":
            return verdict, at
    raise AssertionError("it skips for ever")


def test_a_loss_that_stays_high_is_rewound_from() -> None:
    verdict, at = flag_until_it_acts(warm(), 31, LOSS + 3, NORM)
    assert (verdict.action, verdict.began, at) == ("rewind", 31, 34)


def test_norms_of_a_new_level_are_taken_when_the_loss_is_usual() -> None:
    guard = warm()
    verdict, at = flag_until_it_acts(guard, 31, LOSS, 12 * NORM)
    assert (verdict.action, at) == ("take", 34) and "new level" in verdict.reason
    for step in range(35, 80):
        assert guard.judge(step, LOSS, 12 * NORM).action == "take"


def test_norms_that_grow_and_grow_are_no_level() -> None:
    guard = warm()
    actions = [guard.judge(31 + i, LOSS, 10.0 * 5**i).action for i in range(4)]
    assert actions == ["skip"] * 3 + ["rewind"]


@pytest.mark.parametrize(("loss", "norm"), [(LOSS + 3, NORM), (LOSS, 20 * NORM)])
def test_single_spikes_that_keep_coming_are_the_datas(loss: float, norm: float) -> None:
    guard, rng = warm(), np.random.default_rng(1)
    verdicts = {}
    for step in range(31, 300):
        verdicts[step] = guard.judge(step, loss, norm) if step % 20 == 0 else usual(guard, step, rng)
        assert verdicts[step].action in ("take", "skip")
    assert [step for step, verdict in verdicts.items() if verdict.action == "skip"] == [40, 60, 80]
    assert "the data's" in verdicts[100].reason
    assert guard.judge(300, 30.0, NORM).action == "skip", "what is far worse is still seen"


def test_divergence_is_seen_before_the_windows_are_full() -> None:
    guard = Guard({})
    for step, loss in enumerate([2.0, 2.1, 3.5, 5.0, 5.5, 6.0, 6.0, 6.0, 6.0], 1):
        verdict = guard.judge(step, loss, NORM)
        if verdict.action != "take":
            break
    assert verdict.action == "rewind" and step <= 8 and verdict.began <= 3
    assert verdict.numbers["ema"] > 1.3 * verdict.numbers["best_ema"]


def test_a_loss_that_creeps_up_is_seen() -> None:
    guard, rng = warm(40), np.random.default_rng(1)
    for step in range(41, 140):
        verdict = usual(guard, step, rng, level=LOSS + 0.04 * (step - 40))
        if verdict.action != "take":
            break
    assert verdict.action == "rewind" and not verdict.skipped
    assert step < 40 + 1.2 / 0.04, "it was noticed late"
    assert 38 <= verdict.began <= step


def test_a_loss_that_steps_up_by_less_than_a_spike_is_seen() -> None:
    guard, rng = Guard({}), np.random.default_rng(2)
    levels = [LOSS + 0.3 * float(rng.standard_normal()) for _ in range(60)]
    for step, loss in enumerate([5.0, *levels, *(loss + 1.3 for loss in levels)], 1):
        verdict = guard.judge(step, loss, NORM)
        if verdict.action != "take":
            break
    assert verdict.action == "rewind" and "risen" in verdict.reason
    assert 61 < step <= 73 and abs(verdict.began - 62) <= 2


def test_a_model_that_is_worse_than_its_base_is_seen() -> None:
    guard, rng = Guard({}), np.random.default_rng(1)
    guard.judge(1, LOSS, NORM)
    for step in range(2, 30):
        verdict = usual(guard, step, rng, level=LOSS + 1.0)
        if verdict.action != "take":
            break
    assert verdict.action == "rewind" and step <= 12


def test_a_falling_or_a_low_loss_is_no_divergence() -> None:
    guard, rng = Guard({}), np.random.default_rng(1)
    for step in range(1, 200):  # down to 0.02, where noise is many times the mean
        level = 0.02 + 2 * math.exp(-step / 20)
        loss = level + 0.02 * abs(float(rng.standard_normal()))
        assert guard.judge(step, loss, NORM).action == "take"


def test_three_rewinds_then_diverged() -> None:
    guard = warm()
    for number in range(MAX_REWINDS + 1):
        start = 31 + 10 * number
        verdict, _ = flag_until_it_acts(guard, start, math.nan, NORM)
        assert verdict.action == ("rewind" if number < MAX_REWINDS else "diverged")
        assert verdict.numbers["rewinds"] == number
        # Nothing went well after the rewinds, so all of it is one trouble.
        assert verdict.began == 31
        if verdict.action == "rewind":
            to, end = 20, start + 9
            guard = Guard(rewound(guard.state, warm(20).state, to_step=to, next_step=end, began=verdict.began))
    assert guard.state["void"] == [[20, 40], [20, 50], [20, 60]]


def test_a_rewind_brings_the_windows_back_and_forgets_the_skips() -> None:
    old, guard = warm(20), warm(40)
    flag_until_it_acts(guard, 41, math.nan, NORM)
    state = rewound(guard.state, old.state, to_step=20, next_step=50, began=41)
    assert state["losses"] == old.state["losses"] and state["log_norms"] == old.state["log_norms"]
    assert (state["skips"], state["accepted"], state["rewinds"]) == ([], 0, 1)
    assert Guard(state).judge(51, math.nan, NORM).action == "skip"
    assert guard.state["rewinds"] == 0, "the old state was changed"


def test_weights_that_are_not_finite_are_a_trouble() -> None:
    verdict = warm().broken(30)
    assert (verdict.action, verdict.began, verdict.skipped) == ("rewind", 30, False)


def test_which_checkpoint_is_trusted() -> None:
    state = {"void": [[10, 25]]}
    assert trusted(state, [30, 28, 20, 10, 0], 31) == 28, "a usual step came after 28, none after 30"
    assert trusted(state, [30, 20, 10, 0], 31) == 10, "20 was left behind"
    assert trusted({}, [25, 10, 0], 1) == 0, "the start is good"
    assert trusted({}, [12, 11], 13) == 11
    assert trusted({}, [12], 13) == 12, "better than none"
    assert trusted({}, [12], 12) is None
    assert trusted({}, [], 5) is None


def test_what_a_rewind_may_want_is_kept() -> None:
    assert worth_keeping({"last_good": 50}, [50, 45, 40, 26, 20, 0], 50) == {26, 45}
    assert worth_keeping({"last_good": 41}, [50, 45, 40, 39, 20, 0], 50) == {20, 40}
    assert worth_keeping({"last_good": 10}, [10, 5, 0], 10) == {0, 5}, "nothing is old yet"
    assert worth_keeping({}, [], 0) == {0}


def test_the_state_survives_json() -> None:
    guard, rng, other = warm(40), np.random.default_rng(3), None
    guard.judge(41, math.nan, NORM)
    other = Guard(json.loads(json.dumps(guard.state, allow_nan=False)))
    for step in range(42, 80):
        loss, norm = LOSS + 0.1 * float(rng.standard_normal()), math.exp(0.9 * float(rng.standard_normal()))
        assert guard.judge(step, loss, norm) == other.judge(step, loss, norm)
    assert guard.state == other.state


@pytest.mark.parametrize("sigma", [0.2, 0.35, 0.6])
def test_false_alarms_are_rare(sigma: float) -> None:
    alarms = 0
    for seed in range(6):
        rng, guard = np.random.default_rng(100 + seed), Guard({})
        for step in range(1, 1001):
            course = math.log(4) * math.exp(-step / 30) + sigma * float(rng.standard_normal())
            loss = 1.2 + 1.3 * math.exp(-step / 40) + 0.15 * float(rng.standard_normal())
            alarms += guard.judge(step, loss, math.exp(course)).action != "take"
    assert alarms <= 6, "more than one in 1,000 steps; a third is usual"


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5])
def test_data_of_two_kinds_is_not_rewound_from(share: float) -> None:
    """Steps of one row each, a share of them 1.5 nats harder, and a model that learns nothing."""
    for seed in range(4):
        rng, guard = np.random.default_rng(seed), Guard({})
        for step in range(1, 601):
            loss = 1.0 + 0.1 * float(rng.standard_normal()) + 1.5 * (rng.random() < share)
            assert guard.judge(step, loss, NORM).action in ("take", "skip")


@pytest.mark.parametrize(("sigma", "at"), [(0.2, 17), (0.2, 60), (0.35, 17), (0.35, 60)])
def test_norms_of_ten_times_the_usual_are_seen(sigma: float, at: int) -> None:
    seen = 0
    for seed in range(60):
        guard = warm(at - 1, seed=seed, sigma=0.0)
        rng = np.random.default_rng(seed)
        guard.state["log_norms"] = [sigma * float(rng.standard_normal()) for _ in range(at - 1)]
        seen += guard.judge(at, LOSS, 10 * math.exp(sigma * float(rng.standard_normal()))).action == "skip"
    assert seen >= 58, "99 % is what long simulations give"


def diagnosed(reason: str, *, rewinds: int, accepted: int, records: int = 7) -> str:
    progress = Progress(step=90, learning_rate=3e-3, guard={"rewinds": rewinds, "accepted": accepted})
    return diagnosis(progress, Verdict("diverged", reason, began=80), 3.8e-4, [f"id{n}" for n in range(records)])


def test_the_diagnosis_names_rate_records_and_remedy() -> None:
    text = diagnosed("the loss has been rising", rewinds=3, accepted=9)
    assert "step 90" in text and "step 80" in text and "3 rewinds" in text and "0.00038" in text
    assert "learning_rate of 0.0003 (it was 0.003)" in text
    assert "id0, id1, id2, id3, id4 and 2 more" in text
    assert "1 rewind," in diagnosed("the loss has been rising", rewinds=1, accepted=9)


def test_the_diagnosis_tells_data_and_number_format_from_the_rate() -> None:
    assert "dtype: fp32" in diagnosed("the loss is not finite", rewinds=3, accepted=0)
    assert "set them aside" in diagnosed("the loss is far above what it was", rewinds=3, accepted=0)
    assert "learning_rate of" in diagnosed("the loss is not finite", rewinds=0, accepted=0, records=0)
    assert "Records" not in diagnosed("the loss is not finite", rewinds=0, accepted=0, records=0)


def test_a_rewind_to_the_start_asks_the_base_anew() -> None:
    """One easy first batch must not make every later loss look worse than the base's."""
    state = rewound(warm(40).state, warm(0).state, to_step=0, next_step=50, began=1)
    assert state["first_loss"] is None
    assert rewound(warm(40).state, warm(20).state, to_step=20, next_step=50, began=21)["first_loss"] is not None


def test_one_huge_spike_among_those_of_the_data_does_not_blind_the_limits() -> None:
    guard = warm(40)
    for number, (loss, norm) in enumerate(
        [(LOSS + 3, NORM), (LOSS + 3, NORM), (LOSS + 40, 1e6 * NORM), (LOSS + 3, NORM)]
    ):
        verdict = guard.judge(42 + 10 * number, loss, norm)
    assert verdict.action == "take"
    assert guard.judge(90, LOSS + 30, NORM).action == "skip"
    assert guard.judge(95, LOSS, 1e5 * NORM).action == "skip"
