"""Luthier from Python: what the package promises, and that importing it costs nothing."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

import luthier
from helpers_runs import events, make_recipe
from luthier.data.records import Message
from luthier.models.generate import Sampling

SRC = Path(luthier.__file__).parent.parent
HEAVY = {"torch", "transformers", "pyarrow", "numpy", "tensorboard", "pydantic", "tokenizers"}


def test_from_recipe_to_answers(chat_model: Path, conversations: Path, tmp_path: Path, home: Path) -> None:
    recipe = make_recipe(chat_model, conversations, tmp_path / "run", max_steps=8)
    checked = luthier.check(recipe)
    assert not (tmp_path / "run").exists(), "check must not touch the output folder"
    assert (len(checked.prepared.train), len(checked.prepared.val)) == (32, 8)
    seen: list[dict[str, Any]] = []
    result = luthier.train(recipe, checked=checked, listen=seen.append)
    checked.prepared.close()
    assert result.status == "finished" and result.comparison is not None
    assert result.comparison.after < result.comparison.before
    assert [event["event"] for event in seen] == [event["event"] for event in events(result.run_dir)]
    (start,) = events(result.run_dir, "start")
    assert start["adapter"]["parameters"] == checked.adapter_parameters

    question = "What is a violin?"
    tuned, base = luthier.load(result.run_dir), luthier.load(chat_model, dtype="fp32")
    try:
        assert torch.equal(tuned.decoder.head.dense(), base.decoder.head.dense())
        answers = [tuned.answer(question, max_new_tokens=12, base=is_base) for is_base in (False, True)]
        assert answers[1] == base.answer(question, max_new_tokens=12)
        assert answers[0] != answers[1], "the adapter changes nothing"
        assert "".join(tuned.stream(question, max_new_tokens=12)) == answers[0]
        talk = [Message("user", question), Message("assistant", "Wood."), Message("user", "And a cello?")]
        drawn = Sampling(1.5, 1.0, 3)
        again = [tuned.answer(talk, base=True, max_new_tokens=12, sampling=drawn) for _ in range(2)]
        assert again[0] == again[1] == base.answer(talk, max_new_tokens=12, sampling=drawn)
    finally:
        tuned.close()
        base.close()
    with_folder = luthier.load(result.run_dir / "adapter")
    assert with_folder.answer(question, max_new_tokens=12) == answers[0]
    with_folder.close()


def test_the_sum_of_all_rows_is_accounted_for(
    chat_model: Path, conversations: Path, tmp_path: Path, home: Path
) -> None:
    prepared = luthier.check(make_recipe(chat_model, conversations, tmp_path / "run")).prepared
    accounts = prepared.accounts
    assert accounts.rows_in == len(prepared.train) + len(prepared.val) + sum(accounts.dropped.values()) == 40
    prepared.close()


def test_every_name_that_is_promised_is_there() -> None:
    for name in luthier.__all__:
        assert getattr(luthier, name) is not None
    assert set(luthier.__all__) == {*luthier._HOMES, "train", "__version__"}
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = luthier.nothing  # type: ignore[attr-defined]


def test_train_is_the_function_whatever_was_imported_before() -> None:
    """The room of the same name must not take the function's place."""
    loop = import_module("luthier.train.loop")
    assert callable(luthier.train) and luthier.train is import_module("luthier.stages.run").train
    assert sys.modules["luthier.train.loop"] is loop


def loaded(code: str) -> set[str]:
    """The heavy packages that a fresh process has loaded after `code`."""
    report = "\nimport sys; print('LOADED', *{name.split('.')[0] for name in sys.modules})"
    environment = {"PYTHONPATH": str(SRC), "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code + report], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rpartition("LOADED")[2].split()) & HEAVY


def test_importing_luthier_loads_nothing_heavy() -> None:
    assert loaded("import luthier; luthier.LuthierError; luthier.__version__") == set()


@pytest.mark.parametrize("verb", ["", "train", "chat", "data inspect", "doctor"])
def test_help_loads_nothing_heavy(verb: str) -> None:
    code = f"""
import sys
sys.argv = ["luthier", *{verb.split()}, "--help"]
from luthier.cli import main
try:
    main()
except SystemExit as leaving:
    assert leaving.code == 0
"""
    assert loaded(code) <= {"pydantic"}  # typer's own doing


def test_a_recipe_needs_no_torch() -> None:
    code = "import luthier; luthier.Recipe(base_model='m', datasets=['d.jsonl'], output_dir='r')"
    assert loaded(code) == {"pydantic"}
