"""Everything a run needs to know before a weight is loaded: model, rows, split, and what every `auto` becomes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from luthier.core.errors import RecipeError
from luthier.core.files import hash_bytes
from luthier.data.records import Record
from luthier.data.render import Renderer, Row
from luthier.data.rows import load_or_build_rows
from luthier.data.template import load_template
from luthier.data.tokenizer import Tokenizer
from luthier.models.device import Place, choose_place
from luthier.models.fallback_spec import AnySpec, FallbackSpec, needs_family, read_any_spec
from luthier.models.folder import ModelFacts, check_model_folder
from luthier.models.lora import adaptable_names
from luthier.models.store import resolve_model
from luthier.recipe import Recipe
from luthier.stages.accounts import Accounts
from luthier.stages.general_data import read_general
from luthier.stages.leak_check import check_leaks
from luthier.stages.sources import read_sources
from luthier.train.settings import Settings, decide

Say = Callable[[str, int, int], None]  # what is being done, done so far, of how many


@dataclass(frozen=True)
class Prepared:
    """A recipe checked against its model and data, ready to run.

    Attributes:
        model_dir: the base model's folder.
        renderer: tokenizer and template; closed by whoever asked for the preparation.
        train, val: tokenised rows; val is empty when nothing is held out.
        val_records: the records behind `val`, for sample answers (those of `train` when nothing is held out).
        general_records: what `general_datasets` has beside them; none where the recipe names none.
        data_hash: over every id and mask of train and val, in order.
    """

    recipe: Recipe
    model_dir: Path
    facts: ModelFacts
    spec: AnySpec
    place: Place
    renderer: Renderer
    today: date
    train: list[Row]
    val: list[Row]
    val_records: list[Record]
    general_records: list[Record]
    accounts: Accounts
    data_hash: str
    settings: Settings

    @property
    def train_tokens(self) -> int:
        """Tokens of one pass over the training rows."""
        return sum(len(row.ids) for row in self.train)

    @property
    def label_tokens(self) -> int:
        """Trained tokens of one pass."""
        return sum(int(row.mask.sum()) for row in self.train)

    def close(self) -> None:
        """End the template's process."""
        if self.renderer.template is not None:
            self.renderer.template.close()


def open_renderer(model_dir: Path, chat_template: str | None, *, today: date) -> Renderer:
    """Tokenizer and template of a model folder; without a template, only plain text can be rendered.

    Raises:
        ModelError, DataError: the tokenizer, or the template that was asked for, cannot be read.
    """
    tokenizer = Tokenizer(model_dir)
    if chat_template is None and tokenizer.chat_template is None:
        return Renderer(tokenizer, None)
    file = Path(chat_template) if chat_template is not None else None
    return Renderer(tokenizer, load_template(tokenizer, today=today, file=file))


@dataclass(frozen=True)
class Opened:
    """A model that can be prepared for: what its folder says, where it will run, how it renders."""

    model_dir: Path
    facts: ModelFacts
    spec: AnySpec
    place: Place
    renderer: Renderer
    today: date


def open_model(recipe: Recipe, *, today: date | None = None) -> Opened:
    """Resolve the model and read all of its folder but the weights.

    Args:
        today: what templates that write a date shall write; a resumed run gives its first day.

    Raises:
        ModelError, RecipeError: whatever would stop the run, now rather than later.
    """
    model_dir = resolve_model(recipe.base_model)
    facts, spec = check_model_folder(model_dir), read_any_spec(model_dir)
    if spec.nf4 and not recipe.nf4:
        raise RecipeError(
            "the weights of the model are stored in 4 bits",
            where=f"adapter: {recipe.adapter}",
            fix="write adapter: qlora",
        )
    _require_targets(recipe, spec)
    _require_family(recipe, spec)
    place = choose_place(recipe.device, recipe.dtype)
    today = today or date.today()
    return Opened(model_dir, facts, spec, place, open_renderer(model_dir, recipe.chat_template, today=today), today)


@dataclass(frozen=True)
class Gathered:
    """The records of a recipe, read and divided."""

    train: list[Record]
    validation: list[Record]
    accounts: Accounts


def gather(recipe: Recipe, opened: Opened) -> Gathered:
    """Read and divide the records.

    Raises:
        DataError: a file cannot be read, or nothing could be held out although it should.
    """
    accounts, spec = Accounts(), opened.spec
    if isinstance(spec, FallbackSpec):
        size = spec.num_parameters * opened.place.dtype.itemsize / 1e9
        loaded = f"while it is loaded, host memory holds all of it in {opened.place.dtype_name}, {size:.1f} GB"
        accounts.notes += [spec.why, *spec.notes, loaded]
    if spec.left_out:
        accounts.notes.append("the model also reads images; only its text part is loaded and trained")
    train, validation = read_sources(recipe, accounts)
    return Gathered(train, validation, accounts)


def prepare(recipe: Recipe, *, today: date | None = None, say: Say | None = None) -> Prepared:
    """Resolve the model, read, render and split the data, and decide every `auto`. No weight is loaded.

    Args:
        today: what templates that write a date shall write; a resumed run gives its first day.
        say: receives progress.

    Raises:
        ModelError, DataError, RecipeError: whatever would stop the run, now rather than later.
    """
    opened = open_model(recipe, today=today)
    return prepare_rows(recipe, opened, gather(recipe, opened), say=say)


def prepare_rows(
    recipe: Recipe,
    opened: Opened,
    gathered: Gathered,
    *,
    others: Mapping[str, Gathered] | None = None,
    say: Say | None = None,
) -> Prepared:
    """Check the records for leaks, render them, and decide every `auto`.

    Args:
        others: the other stages of the same training by name; nothing they hold out may be trained on here.
        say: receives progress.

    Raises:
        DataError: as `prepare`.
    """
    train, validation, accounts = gathered.train, gathered.validation, gathered.accounts
    others = others or {}
    held_elsewhere = {name: other.validation for name, other in others.items()}
    check_leaks(train, validation, recipe, accounts, others=held_elsewhere)
    every = [gathered, *others.values()]
    told = Accounts()  # general rows are no part of the account of training and held-out rows
    general = read_general(
        recipe,
        [record for each in every for record in each.train],
        [record for each in every for record in each.validation],
        told,
    )
    accounts.notes += [f"general data, {source['path']}: {source['rows']:,} rows" for source in told.sources]
    accounts.notes += [f"general data: {number:,} × {reason}" for reason, number in told.dropped.items()] + told.notes
    rows = _rows(train, "training rows", opened.renderer, recipe, accounts, say)
    val = _rows(validation, "validation rows", opened.renderer, recipe, accounts, say) if validation else []
    on_gpu = opened.place.device.type == "cuda"
    return Prepared(
        recipe=recipe,
        model_dir=opened.model_dir,
        facts=opened.facts,
        spec=opened.spec,
        place=opened.place,
        renderer=opened.renderer,
        today=opened.today,
        train=rows,
        val=val,
        val_records=validation or train,
        general_records=general,
        accounts=accounts,
        data_hash=hash_bytes(*(part.tobytes() for row in [*rows, *val] for part in (row.ids, row.mask))),
        settings=decide(recipe, opened.spec, [len(row.ids) for row in rows], on_gpu=on_gpu),
    )


def _require_family(recipe: Recipe, spec: AnySpec) -> None:
    """Refuse fields that only our own decoder has, for a model that runs through `transformers`.

    Raises:
        RecipeError: one is asked for.
    """
    if not isinstance(spec, FallbackSpec):
        return
    for field in ("nf4_head", "embedding_on_host"):
        if getattr(recipe, field):
            raise RecipeError(needs_family(field, spec), where=field, fix=f"set {field} to false")
    if recipe.gradient_checkpointing and not spec.recomputes:
        raise RecipeError(
            f"the layers of a model of type {spec.family} cannot run twice in transformers",
            where="gradient_checkpointing",
            fix="set gradient_checkpointing to false, and lower micro_batch_tokens to save memory",
        )


def _require_targets(recipe: Recipe, spec: AnySpec) -> None:
    """Refuse `lora_targets` that the model has not.

    Raises:
        RecipeError: there are such.
    """
    if recipe.lora_targets == "all":
        return
    has = adaptable_names(spec)
    if unknown := [name for name in recipe.lora_targets if name not in has]:
        raise RecipeError(
            f"the model has no {' and no '.join(unknown)}", where="lora_targets", fix=f"choose of {', '.join(has)}"
        )


def _rows(
    records: Sequence[Record], what: str, renderer: Renderer, recipe: Recipe, accounts: Accounts, say: Say | None
) -> list[Row]:
    rows = load_or_build_rows(
        records,
        renderer,
        sequence_len=recipe.sequence_len,
        too_long=recipe.too_long,
        on_bad_row=recipe.on_bad_row,
        progress=None if say is None else lambda done, total: say(what, done, total),
    )
    for reason, number in rows.counts.items():
        lost = reason.startswith(("dropped", "skipped"))
        (accounts.dropped if lost else accounts.changed)[reason] += number
    accounts.notes += rows.notes
    return rows.rows
