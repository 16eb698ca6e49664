"""Recipe files and command-line settings: what is accepted, and the text of every refusal."""

from pathlib import Path

import pytest

from luthier.core.errors import RecipeError
from luthier.recipe import Dataset, LoadedRecipe, load_recipe

BASE = "base_model: m\ndatasets: [a.jsonl]\noutput_dir: runs/x\n"  # a test's own lines begin on line 4


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def load(text: str | bytes, *overrides: str) -> LoadedRecipe:
    path = Path("recipe.yaml")
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return load_recipe(path, overrides)


def refusal(text: str | bytes, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        load(text, *overrides)
    return str(caught.value)


def test_a_whole_recipe():
    loaded = load(
        "base_model: Qwen/Qwen2.5-0.5B   # a comment\n"
        "datasets:\n"
        "  - data/a.jsonl\n"
        "  - path: data/b.json\n"
        "    type: sharegpt\n"
        "learning_rate: 1e-4\n"
        "num_epochs: 2\n"
        "max_steps: null\n"
        'output_dir: "runs/x: y"\n'
    )
    recipe = loaded.recipe
    assert loaded.path == Path("recipe.yaml") and loaded.notes == []
    assert recipe.datasets == [Dataset(path="data/a.jsonl"), Dataset(path="data/b.json", type="sharegpt")]
    assert recipe.learning_rate == 1e-4 and type(recipe.learning_rate) is float
    assert (recipe.num_epochs, recipe.max_steps, recipe.output_dir) == (2, None, "runs/x: y")


def test_byte_order_mark_and_windows_line_ends():
    text = ("\ufeff" + BASE + "seed: 7\nlora_r: 0\n").replace("\n", "\r\n")
    assert load(text.replace("lora_r: 0", "lora_r: 3")).recipe.seed == 7
    assert refusal(text).startswith("recipe.yaml:5: lora_r must be")


@pytest.mark.parametrize("value", ["1e-4", "1E-4", "1.0e-4", "0.0001", ".0001"])
def test_spellings_of_a_small_number(value):
    assert load(BASE + f"learning_rate: {value}").recipe.learning_rate == 1e-4


def test_json_is_yaml():
    assert load('{"base_model": "m", "datasets": [{"path": "a"}], "output_dir": "o"}').recipe.base_model == "m"


def test_one_dataset_as_a_text_and_a_date_as_a_folder():
    recipe = load("base_model: m\ndatasets: a b.jsonl\noutput_dir: 2026-01-31\n").recipe
    assert recipe.datasets == [Dataset(path="a b.jsonl")] and recipe.output_dir == "2026-01-31"


# One line each: what is added to BASE, and the whole message.
REFUSALS = {
    "unknown key": ("lora_rnk: 8", 'recipe.yaml:4: unknown key "lora_rnk"\n  → did you mean lora_r?'),
    "unknown key, nothing near": (
        "seed: 1\nzzz: 8",
        'recipe.yaml:5: unknown key "zzz"\n  → `luthier init` writes a recipe with every key in it',
    ),
    "unknown key near an alias": (
        "cutof_len: 8",
        'recipe.yaml:4: unknown key "cutof_len"\n  → did you mean sequence_len?',
    ),
    "unknown key near a foreign one": (
        "sample_pakcing: 0",
        'recipe.yaml:4: unknown key "sample_pakcing"\n'
        "  → if sample_packing was meant: remove the line: rows are always packed without padding and never see each "
        "other",
    ),
    "dashes and capitals": (
        "Learning-Rate: 8",
        'recipe.yaml:4: unknown key "Learning-Rate"\n  → did you mean learning_rate?',
    ),
    "a section": (
        "training:\n  lr: 1e-4",
        'recipe.yaml:4: unknown key "training"\n  → a recipe is flat: move the keys of training to the top level',
    ),
    "foreign key": (
        "load_in_4bit: true",
        "recipe.yaml:4: load_in_4bit is a setting of other tools that Luthier does not have\n"
        "  → remove the line: adapter: qlora holds the base in 4 bits (NF4), adapter: lora holds it in dtype",
    ),
    "wrong value": ("seed: 1\n\nlora_r: 0", "recipe.yaml:6: lora_r must be a whole number from 1 to 512, not 0"),
    "wrong value under an alias": (
        "rank: 0",
        "recipe.yaml:4: lora_r (written as rank) must be a whole number from 1 to 512, not 0",
    ),
    "empty value": ("seed:", "recipe.yaml:4: seed must be a whole number from 0 up, not empty"),
    "yes is no boolean and no dtype": ("dtype: yes", 'recipe.yaml:4: dtype must be auto, bf16 or fp32, not "yes"'),
    "key twice": (
        "seed: 1\nseed: 2",
        'recipe.yaml:5: "seed" is given twice, the first time on line 4\n  → keep one of the two',
    ),
    "two spellings": (
        "cutoff_len: 64\nsequence_len: 64",
        "recipe.yaml:5: sequence_len and cutoff_len (recipe.yaml:4) are the same setting\n"
        "  → keep one of the two, as sequence_len",
    ),
    "three spellings of two settings": (
        "lr: 1e-4\nepochs: 1\nlearning_rate: 1e-4\nnum_epochs: 1",
        "recipe.yaml: 2 mistakes\n"
        "recipe.yaml:6: learning_rate and lr (recipe.yaml:4) are the same setting\n"
        "  → keep one of the two, as learning_rate\n"
        "recipe.yaml:7: num_epochs and epochs (recipe.yaml:5) are the same setting\n"
        "  → keep one of the two, as num_epochs",
    ),
    "combination": (
        "val_set_size: 0\nearly_stopping_patience: 2",
        "recipe.yaml:5: early_stopping_patience is 2, but val_set_size is 0 and there are no val_datasets, "
        "so nothing can improve\n  → set val_set_size to 0.05, or early_stopping_patience to 0",
    ),
    "dataset key": (
        "val_datasets:\n  - path: v\n    typ: text",
        'recipe.yaml:6: unknown key "typ" in val_datasets[0]\n  → did you mean type?',
    ),
    "dataset key, nothing near": (
        "val_datasets:\n  - path: v\n    zzz: text",
        'recipe.yaml:6: unknown key "zzz" in val_datasets[0]\n  → a dataset has path and type',
    ),
    "foreign dataset key": (
        "val_datasets:\n  - path: v\n    split: train",
        "recipe.yaml:6: split is a setting of other tools that Luthier does not have\n"
        "  → remove the line: the whole file is read; list validation files under val_datasets",
    ),
    "dataset value": (
        "val_datasets:\n  - v\n  - path: w\n    format: chatml",
        "recipe.yaml:7: val_datasets[1].type (written as format) must be auto, alpaca, sharegpt, messages, "
        'prompt_completion or text, not "chatml"\n'
        "  → write messages, or auto; the model's own template does the marking up",
    ),
    "dataset without path": (
        "val_datasets:\n  - v\n  - type: text",
        "recipe.yaml:6: val_datasets[1].path is missing\n"
        "  → add path: file (.jsonl, .json, .csv, .parquet, .txt, .gz of these) or a folder of them",
    ),
    "dataset of the wrong kind": (
        "val_datasets:\n  - v\n  - 7",
        "recipe.yaml:6: val_datasets[1] must be a path, or a path and a type, not 7",
    ),
    "dataset key in two spellings": (
        "val_datasets:\n  - file: v\n    path: w",
        "recipe.yaml:6: path and file (recipe.yaml:5) are the same setting\n  → keep one of the two, as path",
    ),
    "dataset with a misspelt path is not also missing one": (
        "val_datasets:\n  - pth: v",
        'recipe.yaml:5: unknown key "pth" in val_datasets[0]\n  → did you mean path?',
    ),
    "number as a key": ("1: 2", "recipe.yaml:4: a key must be a plain word"),
    "list as a key": ("? [a]\n: 2", "recipe.yaml:4: a key must be a plain word"),
    "merge key": ("<<: {seed: 1}", "recipe.yaml:4: a key must be a plain word"),
    "anchor": ("seed: &s 1", "recipe.yaml:4: anchor &s: recipes have none\n  → write the value out"),
    "tag": ("seed: !mine 1", "recipe.yaml:4: tag !mine: recipes hold plain values only\n  → remove it"),
    "tag of a section": ("seed: !mine {}", "recipe.yaml:4: tag !mine: recipes hold plain values only\n  → remove it"),
    "python object": (
        "seed: !!python/object/apply:os.getcwd []",
        "recipe.yaml:4: tag !!python/object/apply:os.getcwd: recipes hold plain values only\n  → remove it",
    ),
    "tag that does not fit": (
        "seed: !!int abc",
        "recipe.yaml:4: tag !!int: recipes hold plain values only\n  → remove it",
    ),
    "very long number": (
        f"seed: {'9' * 5000}",
        "recipe.yaml:4: a number of 5000 characters\n  → write a shorter number",
    ),
    "NUL in a text": ('device: "\\0"', "recipe.yaml:4: a text with a NUL character\n  → delete the character"),
    "NUL in the file": (
        "seed: 1\ndevice: \0",
        "recipe.yaml:5: a character that a text file cannot hold (code 0)\n  → delete the character",
    ),
    "tab": (
        "\tseed: 1",
        "recipe.yaml:4: not YAML: found character '\\t' that cannot start any token\n"
        "  → indent and separate with spaces, not tabs",
    ),
    "second document": (
        "---\nseed: 1",
        "recipe.yaml:4: not YAML: but found another document\n  → keep one recipe a file: remove the line ---",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals_name_file_and_line_and_the_way_out(case):
    added, message = REFUSALS[case]
    assert refusal(BASE + added + "\n") == message


@pytest.mark.parametrize(("added", "line"), [("x: [1,\n", 5), ("lora_r:3\nseed: 1\n", 5), ("seed: *s\n", 4)])
def test_broken_yaml_names_the_line(added, line):
    assert refusal(BASE + added).startswith(f"recipe.yaml:{line}: not YAML: ")


def test_mistakes_of_all_kinds_come_together_in_the_order_of_the_file():
    text = refusal("base_model: ''\nfoo: 1\ndatasets: [a]\nseed: -1\npacking: true\nlora_alpha: 1.5\n")
    heads = [line for line in text.splitlines() if not line.startswith("  →")]
    assert heads == [
        "recipe.yaml: 6 mistakes",
        "recipe.yaml:1: base_model must be a text, not an empty text",
        'recipe.yaml:2: unknown key "foo"',
        "recipe.yaml:4: seed must be a whole number from 0 up, not -1",
        "recipe.yaml:5: packing is a setting of other tools that Luthier does not have",
        "recipe.yaml:6: lora_alpha must be a whole number above 0, not 1.5",
        "recipe.yaml: output_dir is missing",
    ]


def test_a_misspelt_field_is_not_also_missing():
    text = refusal("base_model: m\ndatasets: [a]\noutput_dri: x\n")
    assert text == 'recipe.yaml:3: unknown key "output_dri"\n  → did you mean output_dir?'


def test_files_that_are_no_recipes(tmp_path):
    init = "  → `luthier init` writes a recipe to start from"
    assert refusal("") == f"recipe.yaml: the file is empty\n{init}"
    assert refusal("# nothing\n") == f"recipe.yaml: the file is empty\n{init}"
    assert refusal("- a\n- b\n") == f"recipe.yaml: not a list of settings\n{init}"
    assert refusal("just words") == f"recipe.yaml: not a list of settings\n{init}"
    assert refusal(b"a: 1\nb: \xff\n") == "recipe.yaml:2: not UTF-8 text\n  → save the file as UTF-8"
    assert refusal("seed: 1".encode("utf-16")).startswith("recipe.yaml:1: not UTF-8 text")
    assert refusal("[" * 600) == "recipe.yaml:1: nested too deeply for a recipe\n  → a recipe is flat"
    assert refusal(b"#" * 100_001).startswith("recipe.yaml: larger than 100 kB")
    with pytest.raises(RecipeError, match=r"^absent\.yaml: no such file\n  → `luthier init`"):
        load_recipe(Path("absent.yaml"))
    with pytest.raises(RecipeError, match="a folder, not a recipe file"):
        load_recipe(tmp_path)


# ── settings from the command line ───────────────────────────────────────────────────────────────────────────────────


def test_three_spellings_of_a_setting_replace_the_file():
    recipe = load(BASE + "lora_r: 8\n", "lora_r=4", "--learning-rate=1e-4", "--num-epochs", "0.5").recipe
    assert (recipe.lora_r, recipe.learning_rate, recipe.num_epochs) == (4, 1e-4, 0.5)


@pytest.mark.parametrize(
    ("text", "value"),
    [("max_steps=null", None), ("max_steps=", None), ("max_steps=~", None), ("max_steps=1_000", 1000)],
)
def test_values_are_yaml(text, value):
    assert load(BASE + "max_steps: 9\n", text).recipe.max_steps == value


def test_texts_are_kept_whole():
    recipe = load(BASE, "output_dir=a b #c: d=e", "--base-model=2026", "datasets=C:\\x #1.jsonl").recipe
    assert (recipe.output_dir, recipe.base_model) == ("a b #c: d=e", "2026")
    assert recipe.datasets == [Dataset(path="C:\\x #1.jsonl")]


def test_datasets_as_a_path_or_a_yaml_list_replace_those_of_the_file():
    assert load(BASE, "datasets=b.jsonl").recipe.datasets == [Dataset(path="b.jsonl")]
    flow = load(BASE, "datasets=[b.jsonl, {path: c, format: text}]")
    assert flow.recipe.datasets == [Dataset(path="b.jsonl"), Dataset(path="c", type="text")]
    assert flow.notes == ["datasets[1].format: read as type"]


def test_aliases_work_on_the_command_line_and_across_it():
    loaded = load(BASE + "cutoff_len: 64\n", "--max-length", "128", "dataset=b")
    assert loaded.recipe.sequence_len == 128 and loaded.recipe.datasets == [Dataset(path="b")]
    assert loaded.notes == [
        "cutoff_len: read as sequence_len",
        "max_length: read as sequence_len",
        "dataset: read as datasets",
    ]


def test_a_replaced_setting_is_no_longer_judged():
    assert load(BASE + "lora_r: 0\nval_datasets:\n  - typ: x\n", "lora_r=4", "val_datasets=v").recipe.lora_r == 4


COMMAND_LINE = {
    "unknown key": (
        ["--learning-rat", "3"],
        'command line: --learning-rat: unknown key "learning_rat"\n  → did you mean learning_rate?',
    ),
    "wrong value": (["lora_r=x"], 'command line: lora_r: lora_r must be a whole number from 1 to 512, not "x"'),
    "foreign": (
        ["--packing", "true"],
        "command line: --packing: packing is a setting of other tools that Luthier does not have\n"
        "  → remove the line: rows are always packed without padding and never see each other",
    ),
    "no value": (["--lora-r"], "command line: --lora-r: no value given\n  → write --lora-r VALUE"),
    "no value, then another": (
        ["--lora-r", "--seed", "1"],
        "command line: --lora-r: no value given\n  → write --lora-r VALUE",
    ),
    "bare word": (["lora_r"], "command line: lora_r: not a setting\n  → write lora_r=VALUE"),
    "no key": (["=3"], "command line: =3: not a setting\n  → settings are key=value or --key value"),
    "one dash": (["-r=3"], "command line: -r=3: not a setting\n  → settings are key=value or --key value"),
    "twice": (["seed=1", "--seed=2"], "command line: --seed: seed is given twice\n  → keep one of the two"),
    "two spellings": (
        ["lr=1e-4", "--learning-rate", "1e-4"],
        "command line: --learning-rate: learning_rate and lr (command line: lr) are the same setting\n"
        "  → keep one of the two, as learning_rate",
    ),
    "combination with the file": (
        ["batch_tokens=8"],
        "recipe.yaml:4: micro_batch_tokens (16) is larger than batch_tokens (8), of which it is a part\n"
        "  → set micro_batch_tokens to 8 or less, or to auto",
    ),
    "dataset key": (
        ["datasets=[{path: a, typ: text}]"],
        'command line: datasets: unknown key "typ" in datasets[0]\n  → did you mean type?',
    ),
    "half a surrogate pair": (
        ["device=\udc80"],
        'command line: device: device must be auto, cpu or cuda, not "\\udc80"',
    ),
}


@pytest.mark.parametrize("case", COMMAND_LINE)
def test_refusals_on_the_command_line(case):
    overrides, message = COMMAND_LINE[case]
    assert refusal(BASE + "micro_batch_tokens: 16\n", *overrides) == message


def test_very_long_number_on_the_command_line():
    text = refusal(BASE, f"seed={'9' * 5000}")
    assert text.startswith('command line: seed: seed must be a whole number from 0 up, not "999') and len(text) < 200


def test_broken_list_on_the_command_line():
    assert refusal(BASE, "datasets=[b").startswith("command line: datasets: not YAML: ")
