"""Results that are not published although the training went through."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from helpers_runs import make_recipe, rows_of, write_rows
from luthier.evaluate.interval import WORSE
from luthier.stages import finish
from luthier.stages.forgetting import ForgettingWatch
from luthier.stages.run import train


def test_a_result_that_is_clearly_worse_is_not_accepted(
    chat_model: Path, conversations: Path, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = finish.compared
    monkeypatch.setattr(finish, "compared", lambda *args: replace(compared(*args), verdict=WORSE))
    result = train(make_recipe(chat_model, conversations, tmp_path / "run"))
    assert (result.status, result.adapter_dir) == ("not accepted", None)
    assert result.rejected_dir is not None and "clearly worse" in result.text


def test_the_budget_holds_where_nothing_is_held_out(
    chat_model: Path, conversations: Path, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged = ForgettingWatch.judged

    def outside(self: ForgettingWatch, now: Any, **more: Any) -> Any:
        return replace(judged(self, now, **more), inside=False)

    monkeypatch.setattr(ForgettingWatch, "judged", outside)
    general = write_rows(tmp_path / "general.jsonl", rows_of(tuple(f"thing{i}" for i in range(9))))
    fields = {"val_set_size": 0.0, "max_forgetting": 0.08, "general_datasets": [general]}
    result = train(make_recipe(chat_model, conversations, tmp_path / "run", **fields))
    assert (result.status, result.adapter_dir) == ("not accepted", None)
    assert "more was forgotten" in result.text
