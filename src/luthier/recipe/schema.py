"""The recipe's fields, their defaults, and the combinations that are refused."""

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidationInfo,
    create_model,
    field_validator,
    model_serializer,
    model_validator,
)

from luthier.core.errors import RecipeError
from luthier.recipe.messages import Loc, Problem, Source, problems_of, recipe_error

Text = Annotated[str, Field(min_length=1)]
Count = Annotated[int, Field(ge=1)]
Auto = Literal["auto"]


def _text_of_path(value: Any) -> Any:
    """Paths from Python code become text; everything else is judged as it is."""
    return str(value) if isinstance(value, Path) else value


class Dataset(BaseModel):
    """One data file or folder. A bare string or Path stands for `Dataset(path=...)`.

    Raises:
        pydantic.ValidationError: built on its own with a wrong value. Inside a Recipe, write a dict or a string
            and the mistake is a RecipeError.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    path: Text = Field(description="file (.jsonl, .json, .csv, .parquet, .txt, .gz of these) or a folder of them")
    type: Literal["auto", "alpaca", "sharegpt", "messages", "prompt_completion", "text"] = Field(
        "auto", description="how a row is laid out; auto reads it from the rows' keys"
    )

    @model_validator(mode="before")
    @classmethod
    def _from_bare_path(cls, value: Any) -> Any:
        return {"path": str(value)} if isinstance(value, str | Path) else value

    @field_validator("path", mode="before")
    @classmethod
    def _path_as_text(cls, value: Any) -> Any:
        return _text_of_path(value)


LinearName = Literal[
    "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "qkv_proj", "gate_up_proj",
    # of models that run through transformers
    "query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h", "c_attn", "c_proj", "c_fc", "fc1", "fc2", "in_proj",
    "out_proj", "lm_head", "embed_tokens",
]  # fmt: skip


class _DataLists(BaseModel):
    """A single path may stand where a list of datasets is expected."""

    @field_validator("datasets", "val_datasets", "general_datasets", mode="before", check_fields=False)
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        if isinstance(value, str | Path):
            return [value]
        return list(value) if isinstance(value, tuple) else value


class Recipe(_DataLists):
    """Everything a run is asked to do; immutable. Fields set to "auto" are decided when the run starts.

    Values are judged strictly: no number is read out of a text, no True taken for 1, NaN and infinity are refused.
    Relative paths are kept as written and mean relative to the current working folder.

    Raises:
        RecipeError: an unknown field, a wrong value, or a combination that cannot work.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    # What is trained
    base_model: Text = Field(description="model folder, name in the model store, or hub id already on disk")
    adapter: Literal["lora", "qlora"] = Field(
        "lora", description="lora trains beside a base in dtype, qlora beside one in 4 bits (NF4)"
    )
    lora_r: int = Field(16, ge=1, le=512, description="rank of the adapter's matrices")
    lora_alpha: int = Field(32, gt=0, description="the adapter's output is scaled by lora_alpha / lora_r")
    rslora: bool = Field(False, description="scale by lora_alpha / √lora_r instead, which keeps large ranks in step")
    lora_dropout: float = Field(
        0.0, ge=0, lt=1, description="share of an adapter's inputs that training drops at random"
    )
    dora: bool = Field(False, description="learn the size of each output's weights apart from their direction (DoRA)")
    lora_targets: Literal["all"] | Annotated[list[LinearName], Field(min_length=1)] = Field(
        "all", description="the layers that get an adapter; all is every linear one within the decoder's layers"
    )
    adapter_dtype: Literal["fp32", "bf16"] = Field(
        "fp32", description="number format of the adapter and its gradient; bf16 is rounded at random"
    )

    # On what
    datasets: list[Dataset] = Field([], min_length=1, description="files to train on; each a path, or path and type")
    val_datasets: list[Dataset] = Field([], description="files to validate on, in place of val_set_size")
    val_set_size: float = Field(
        0.05, ge=0, lt=1, description="share of record groups kept for validation; 0 when val_datasets is given"
    )
    eval_sets: list[Text] = Field([], description="evaluation files that training data must not give away")
    allow_leaks: bool = Field(False, description="train although training data repeats what it is measured by")
    general_datasets: list[Dataset] = Field(
        [], description="general texts that must not be forgotten; without, the base writes some"
    )
    replay_share: float = Field(
        0.05, ge=0, le=0.5, description="share of the loss tokens that come from general texts, to keep what was known"
    )
    sequence_len: int = Field(2048, ge=16, description="longest row, in tokens")
    too_long: Literal["cut", "drop"] = Field("cut", description="what happens to rows longer than sequence_len")
    on_bad_row: Literal["stop", "skip"] = Field("stop", description="what happens at a row that cannot be used")
    chat_template: Annotated[str, Field(pattern=r"\.jinja2?$")] | None = Field(
        None, description="path of a .jinja chat template; null is the model's own"
    )

    # How
    batch_tokens: Count | Auto = Field("auto", description="tokens of one optimizer step")
    micro_batch_tokens: Count | Auto = Field("auto", description="tokens of one forward and backward pass")
    gradient_checkpointing: bool = Field(False, description="run each layer twice instead of keeping what it made")
    nf4_head: bool = Field(False, description="hold the output head in 4 bits, too, where the base is")
    embedding_on_host: bool = Field(False, description="look embeddings up in host memory, and move only those rows")
    learning_rate: Annotated[float, Field(gt=0, le=1)] | Auto = Field("auto", description="highest learning rate")
    optim: Literal["adamw", "adamw_8bit"] = Field(
        "adamw", description="AdamW, with its two moments in float32 or in 8 bits"
    )
    lr_scheduler: Literal["cosine", "linear", "constant", "wsd"] = Field(
        "cosine", description="course of the learning rate after warmup; wsd holds, then falls"
    )
    warmup_ratio: float = Field(0.05, ge=0, lt=1, description="share of the steps in which the learning rate rises")
    weight_decay: float = Field(0.0, ge=0, description="pull of the adapter's weights towards zero (AdamW)")
    max_grad_norm: float = Field(1.0, gt=0, description="longer gradients are scaled down to this norm")
    num_epochs: float = Field(1.0, gt=0, description="passes over the training rows; may be a fraction")
    max_steps: Count | None = Field(None, description="stop after this many optimizer steps, if that is earlier")
    stages: list["Stage"] = Field([], description="parts of the training, one after the other, each with its settings")

    # Watching and keeping
    eval_steps: Count | Auto = Field("auto", description="steps between two validations")
    save_steps: Count | Auto = Field("auto", description="steps between two checkpoints")
    keep_checkpoints: int = Field(2, ge=1, description="newest checkpoints kept, beside the best one")
    early_stopping_patience: int = Field(
        0, ge=0, description="stop after this many validations without a better loss; 0 is never"
    )
    overfitting_patience: int = Field(
        3, ge=0, description="stop so many validations after the overfitting alarm; 0 only warns"
    )
    max_forgetting: Annotated[float, Field(gt=0)] | None = Field(
        0.08, description="most that the loss on general texts may rise, nats a token; null is not watched"
    )
    num_samples: int = Field(4, ge=0, description="prompts answered before and after training, for the report")
    max_new_tokens: int = Field(128, ge=1, description="longest of those answers, in tokens")

    # Where
    seed: int = Field(0, ge=0, description="decides the split, the order of rows and the adapter's start")
    dtype: Literal["auto", "bf16", "fp32"] = Field("auto", description="number format of the base and activations")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where the training runs")
    output_dir: Text = Field(description="folder of the run: events, checkpoints, adapter, report")

    @property
    def nf4(self) -> bool:
        """Whether the base is held in 4 bits."""
        return self.adapter == "qlora"

    @field_validator("base_model", "chat_template", "output_dir", mode="before")
    @classmethod
    def _path_as_text(cls, value: Any) -> Any:
        return _text_of_path(value)

    @field_validator("lora_targets", mode="before")
    @classmethod
    def _all_linears(cls, value: Any) -> Any:
        if isinstance(value, str) and set(names := value.replace(" ", "").split(",")) <= set(get_args(LinearName)):
            return names
        return "all" if value in ("all-linear", ["all"], ["all-linear"]) else value

    @field_validator("eval_sets", mode="before")
    @classmethod
    def _one_path_is_a_list(cls, value: Any) -> Any:
        paths = [value] if isinstance(value, str | Path) else value
        return [_text_of_path(path) for path in paths] if isinstance(paths, list | tuple) else paths

    @model_validator(mode="wrap")
    @classmethod
    def _explain(cls, data: Any, handler: ModelWrapValidatorHandler["Recipe"], info: ValidationInfo) -> "Recipe":
        """Fill in what other fields decide, and turn every refusal into one RecipeError that lists them all.

        The validation context, if any, is the Source that knows the file and line of each field.
        """
        if isinstance(data, dict) and data.get("val_datasets") and "val_set_size" not in data:
            data = {**data, "val_set_size": 0.0}
        source = info.context or Source()
        absent = _without_datasets(data)
        try:
            recipe = handler(data)
        except ValidationError as error:
            raise recipe_error(problems_of(error.errors(include_url=False), absent, cls, source), source) from None
        if absent:
            raise recipe_error(problems_of([], absent, cls, source), source)
        judge = _impossible_stages if recipe.stages else _impossible_combinations
        if problems := judge(recipe, source):
            raise recipe_error(problems, source)
        return recipe


# Fields that a stage may set for itself; those of Recipe that are not here hold for the whole training.
STAGE_FIELDS = (
    *("datasets", "val_datasets", "val_set_size", "sequence_len", "batch_tokens", "learning_rate", "lr_scheduler"),
    *("warmup_ratio", "num_epochs", "max_steps", "eval_steps", "save_steps", "early_stopping_patience"),
    *("overfitting_patience", "general_datasets", "replay_share", "max_forgetting"),
)


class _Stage(_DataLists):
    """What a stage has of its own; the fields of STAGE_FIELDS come beside it, as they are in the recipe.

    Only what was set is part of the stage; everything else is as the recipe says.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,39}$")] = Field(
        description="what the stage is called, in its folder too"
    )
    gate: Literal["better", "not worse", "none"] = Field(
        "not worse", description="what the held-out loss must clearly be, or not be, beside the stage before"
    )
    max_unlearning: Annotated[float, Field(ge=0)] | None = Field(
        None, description="highest clear rise of the loss on what earlier stages hold out; null is any"
    )

    @model_serializer(mode="wrap")
    def _only_what_was_set(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in handler(self).items() if name in self.model_fields_set}


Stage = create_model(
    "Stage",
    __base__=_Stage,
    __doc__="One part of a training, with settings of its own.",
    **{name: (info.annotation, info) for name, info in Recipe.model_fields.items() if name in STAGE_FIELDS},
)
Recipe.model_rebuild()


def stage_recipe(recipe: Recipe, index: int, source: Source | None = None) -> Recipe:
    """Stage `index` of a recipe as a recipe of its own, whose output_dir is its folder within the recipe's.

    What a stage says of held-out data, `val_datasets` or `val_set_size`, replaces both of the recipe's.

    Raises:
        RecipeError: its settings contradict each other.
    """
    stage = recipe.stages[index]
    own = {name: getattr(stage, name) for name in STAGE_FIELDS if name in stage.model_fields_set}
    replaced = {"stages", "output_dir", *own}
    if replaced & {"val_datasets", "val_set_size"}:
        replaced |= {"val_datasets", "val_set_size"}
    values = {name: getattr(recipe, name) for name in recipe.model_fields_set - replaced} | own
    values["output_dir"] = str(Path(recipe.output_dir) / stage_folder(index, stage.name))
    source = source or Source()
    here = {loc[2:]: place for loc, place in source.places.items() if loc[:2] == ("stages", index)}
    try:
        return Recipe.model_validate(values, context=Source({**source.places, **here}))
    except RecipeError as error:
        raise RecipeError(f"stage {stage.name}: {error.what}", where=error.where, fix=error.fix) from None


def stage_folder(index: int, name: str) -> str:
    """Where a stage lies in the folder of the whole run: "stages/01-broad"."""
    return f"stages/{index + 1:02}-{name}"


def _without_datasets(data: Any) -> list[Loc]:
    """Where it should be said what to train on, and is not: in the recipe, or in stages where others have their own."""
    if not isinstance(data, dict) or "datasets" in data:
        return []
    stages = data.get("stages")
    if not isinstance(stages, list | tuple):
        return [("datasets",)]
    given = ["datasets" in (s if isinstance(s, dict) else getattr(s, "model_fields_set", ())) for s in stages]
    return [("stages", i, "datasets") for i, own in enumerate(given) if not own] if any(given) else [("datasets",)]


def _impossible_stages(recipe: Recipe, source: Source) -> list[Problem]:
    """Stages that are fine alone and not one after the other."""
    problems: list[Problem] = []
    names: list[str] = []
    for index, stage in enumerate(recipe.stages):
        where = source.where(("stages", index, "name"))
        if stage.name.lower() in names:
            problems.append(Problem(f"two stages are called {stage.name}", where, "give each a name of its own"))
        names.append(stage.name.lower())
        if index == 0 and stage.max_unlearning is not None:
            where = source.where(("stages", 0, "max_unlearning"))
            what = f"max_unlearning in stage {stage.name}: there is no stage before it"
            problems.append(Problem(what, where, "remove the line; max_forgetting watches what the base model knew"))
        alone = stage_recipe(recipe, index, source)
        if stage.gate == "better" and not alone.val_datasets and alone.val_set_size == 0:
            what = f"stage {stage.name}: gate is better, but nothing is held out, so nothing can be better"
            where = source.where(("stages", index, "gate"))
            problems.append(Problem(what, where, "set val_set_size to 0.05, or gate to none"))
    return problems


def _impossible_combinations(recipe: Recipe, source: Source) -> list[Problem]:
    """Fields that are fine alone and contradict each other."""
    problems = []

    def refuse(field: str, what: str, fix: str) -> None:
        problems.append(Problem(what, where=source.where((field,)), fix=fix))

    if recipe.early_stopping_patience and not recipe.val_datasets and recipe.val_set_size == 0:
        refuse(
            "early_stopping_patience",
            f"early_stopping_patience is {recipe.early_stopping_patience}, but val_set_size is 0 and there are no "
            "val_datasets, so nothing can improve",
            "set val_set_size to 0.05, or early_stopping_patience to 0",
        )
    if recipe.nf4_head and not recipe.nf4:
        refuse(
            "nf4_head",
            f"nf4_head is for a base in 4 bits, and adapter is {recipe.adapter}",
            "write adapter: qlora, or set nf4_head to false",
        )
    tables = [name for name in ("lm_head", "embed_tokens") if name in recipe.lora_targets]
    if recipe.dora and tables:
        refuse(
            "dora",
            f"dora is for the linear layers, and lora_targets names {' and '.join(tables)}",
            "set dora to false, or take them out of lora_targets",
        )
    if recipe.dora and recipe.adapter_dtype == "bf16":
        refuse(
            "dora",
            "dora scales each output by a number near 1, for which bf16 has three digits, and adapter_dtype is bf16",
            "set adapter_dtype to fp32, or dora to false",
        )
    batch, micro = recipe.batch_tokens, recipe.micro_batch_tokens
    if batch != "auto" and micro != "auto" and micro > batch:
        refuse(
            "micro_batch_tokens",
            f"micro_batch_tokens ({micro}) is larger than batch_tokens ({batch}), of which it is a part",
            f"set micro_batch_tokens to {batch} or less, or to auto",
        )
    if recipe.val_datasets and recipe.val_set_size > 0:
        refuse(
            "val_set_size",
            f"val_set_size is {recipe.val_set_size:g}, but val_datasets already names the validation data",
            "remove val_set_size, or remove val_datasets",
        )
    return problems
