"""What a person is told when a run has diverged: what was seen, what it may come from, what to try."""

from luthier.train.guards import Verdict
from luthier.train.progress import Progress

NAMED = 5  # records in the text; the event has more


def diagnosis(progress: Progress, verdict: Verdict, rate: float, records: list[str]) -> str:
    """A few sentences.

    Args:
        progress: where the run stands.
        verdict: the last one.
        rate: the learning rate that the next step would have had.
        records: ids of the records in the bad steps, the worst first.
    """
    state = progress.guard
    rewinds = state["rewinds"]
    said = [
        f"At step {progress.step} {verdict.reason}; the trouble began at step {verdict.began}, "
        f"after {rewinds} rewind{'' if rewinds == 1 else 's'}, at a learning rate of {rate:.2g}."
    ]
    unmoved = rewinds > 0 and state["accepted"] == 0
    if unmoved and "finite" in verdict.reason:
        said.append(
            "It came with the weights of a checkpoint that had worked, whichever rows were tried, so the rate is "
            "hardly the cause: look at the model's number format (dtype: fp32 is the safest) and at these records."
        )
    elif unmoved:
        said.append(
            "It came with the weights of a checkpoint that had worked, so these rows are unlike those before them: "
            "look at the records, or set them aside."
        )
    else:
        said.append(
            f"Try a learning_rate of {progress.learning_rate / 10:.1g} (it was {progress.learning_rate:.2g}) and a "
            "warmup_ratio of 0.1; larger batch_tokens make steps steadier, too."
        )
    if records:
        more = "" if len(records) <= NAMED else f" and {len(records) - NAMED} more"
        said.append(f"Records in the bad steps, the worst first: {', '.join(records[:NAMED])}{more}.")
    return " ".join(said)
