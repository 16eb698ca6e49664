"""How long a run will take on a CPU, roughly, from the work of its products and the speed of this machine's."""

from luthier.models.measure import matmul_flops
from luthier.recipe import Recipe
from luthier.stages.check import Check
from luthier.stages.forgetting_probes import TARGET_TOKENS
from luthier.stages.general_data import MAX_PROBE, SHARE
from luthier.stages.general_own import ANSWER_TOKENS, PROMPT_TOKENS, SPARE, WANTED
from luthier.stages.prepare import Prepared
from luthier.stages.strength import MOST_ROWS, STRENGTHS
from luthier.stages.validate import PROBE_ROWS

REST = 1.5  # of the time that products take at the measured speed; with the rest of a step
GENERATED = 6  # one token of an answer, written in a batch, takes the time of so many that are read
QUESTION_TOKENS = 3_000  # of all questions with their options
TARGET_PASSES = 4  # tuned, base, and answers after two prompts
SEARCH = 1.05  # a search for the learning rate takes up to a twentieth of the run


def estimated_seconds(check: Check) -> float | None:
    """Training, validations, and the watch on forgetting from its first measurement to the choice of a strength.

    None on a GPU, where the products are not what decides.
    """
    prepared = check.prepared
    if prepared.place.device.type != "cpu":
        return None
    spec, settings, recipe = prepared.spec, prepared.settings, prepared.recipe
    head = spec.vocab_size * spec.hidden_size
    linears = spec.num_parameters - head * (1 if spec.tied else 2)
    labels = prepared.label_tokens / prepared.train_tokens  # what a token costs the head, too
    forward = 2 * linears + 2 * head * labels  # products of a token that is read
    trained = sum(len(prepared.train[i].ids) for _, step in settings.steps for micro in step for i in micro)
    trained = trained / (1 - recipe.replay_share) * (SEARCH if recipe.learning_rate == "auto" else 1)
    read = _validated(prepared) + _watched(prepared) + GENERATED * _written(recipe, held_out=bool(prepared.val))
    return REST * forward * (2 * trained + read) / matmul_flops(prepared.place.dtype)


def _evaluations(prepared: Prepared) -> float:
    """One before the first step among them."""
    return 1 + prepared.settings.total_steps / prepared.settings.eval_steps


def _validated(prepared: Prepared) -> float:
    """Tokens of held-out rows and of the probe beside them, over the run."""
    held = sum(len(row.ids) for row in prepared.val)
    probe = min(len(prepared.val), PROBE_ROWS, len(prepared.train)) * prepared.train_tokens / len(prepared.train)
    return (held + probe) * _evaluations(prepared)


def _watched(prepared: Prepared) -> float:
    """Tokens that the watch on forgetting reads, over the run."""
    recipe = prepared.recipe
    if recipe.max_forgetting is None:
        return 0.0
    given, a_row = len(prepared.general_records), prepared.train_tokens / len(prepared.train)
    rows = min(MAX_PROBE, (given or WANTED) // SHARE)
    general = rows * (a_row if given else PROMPT_TOKENS + ANSWER_TOKENS) + QUESTION_TOKENS
    swept = (len(STRENGTHS) - 1) * (general + min(MOST_ROWS, len(prepared.val)) * a_row) if prepared.val else 0.0
    return (general + TARGET_PASSES * TARGET_TOKENS) * _evaluations(prepared) + swept


def _written(recipe: Recipe, *, held_out: bool) -> float:
    """Tokens that are written: the base's own general texts, and the answers before and after."""
    watched = recipe.max_forgetting is not None or recipe.replay_share > 0
    own = WANTED * SPARE * (PROMPT_TOKENS + ANSWER_TOKENS) if watched and not recipe.general_datasets else 0.0
    return own + (2 * recipe.num_samples * recipe.max_new_tokens if held_out else 0)
