"""F48 and what belongs to it: a run that forgets what the base knew is noticed, acted upon, and not accepted.

The base is a tiny model that was taught some conversations, so that there is something to forget.
"""

import json
import os
import random
import shutil
import signal
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from helpers_runs import WORDS, events, make_chat_model, make_recipe, same, talk, tensors, write_rows
from luthier.data.read import read_records
from luthier.evaluate.choices import load_items
from luthier.recipe import Recipe
from luthier.stages.prepare import open_renderer
from luthier.stages.run import resume, train

KNOWN = [
    talk(ask.format(word), answer.format(word))
    for word in WORDS
    for ask, answer in (
        ("What is a {}?", "A {} is an instrument with strings."),
        ("Who builds a {}?", "A luthier builds the {}."),
        ("Where is the {} kept?", "The {} is kept in its case."),
        ("May I play the {}?", "Yes, play the {} for us."),
        ("Is the {} loud?", "No, the {} is a quiet one."),
        ("How old is your {}?", "My {} is a hundred years old."),
    )
]


@pytest.fixture(autouse=True)
def few_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    """The base knows none of them; a few are enough to go through all there is."""
    monkeypatch.setattr("luthier.stages.general.load_items", lambda: load_items()[::12])


@pytest.fixture(scope="module")
def general(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("general") / "general.jsonl", KNOWN)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, general: Path) -> Path:
    """A tiny model that has learned `KNOWN`."""
    folder = make_chat_model(tmp_path_factory.mktemp("models") / "taught")
    renderer = open_renderer(folder, None, today=date(2026, 1, 1))
    rendered = renderer.render_many(read_records(general).records)
    rows = [row for made in rendered for row in made]
    renderer.template.close()
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    longest = max(len(row.ids) for row in rows)
    ids, labels = torch.zeros(len(rows), longest, dtype=torch.long), torch.full((len(rows), longest), -100)
    for at, row in enumerate(rows):
        own = torch.tensor(row.ids.astype("int64"))
        ids[at, : len(own)] = own
        labels[at, : len(own)] = own.masked_fill(~torch.tensor(row.mask), -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(40):
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss.item() < 1.0, loss.item()
    model.save_pretrained(folder)
    return folder


def random_labels(path: Path) -> Path:
    """Prompts whose answers have nothing to do with them, nor with each other."""
    letters = random.Random(0)
    rows = [
        talk(f"Door {i} of house {i % 7}?", "".join(letters.choice("zqxjkvbw 09") for _ in range(30)), group=f"d{i}")
        for i in range(60)
    ]
    return write_rows(path, rows)


def other_language(path: Path) -> Path:
    """Answers of one kind, which can be learned, in letters that the base hardly uses."""
    rows = [talk(f"Дом {i} / {i % 9}?", f"дверь {i % 5} открыта в сад", group=f"d{i}") for i in range(60)]
    return write_rows(path, rows)


SLOW = {"learning_rate": 1e-2, "max_forgetting": 1.5}  # too much is forgotten, and less than three times as much


def watched(base: Path, data: Path, general: Path, output_dir: Path, **more: Any) -> Recipe:
    fields = {"max_steps": 16, "eval_steps": 2, "learning_rate": 3e-2, "warmup_ratio": 0.0, "lora_r": 8}
    watch = {"general_datasets": [general], "max_forgetting": 0.08, "val_set_size": 0.25}
    return make_recipe(base, data, output_dir, **{**fields, **watch, **more})


def test_f48_random_labels_are_stopped_within_two_evaluations(
    home: Path, base: Path, general: Path, tmp_path: Path
) -> None:
    result = train(watched(base, random_labels(tmp_path / "d.jsonl"), general, tmp_path / "run", learning_rate=0.1))
    assert result.status == "not accepted"
    found = events(tmp_path / "run", "forgetting")
    assert [event["step"] for event in found] == [0, 2, 4], "the base, and two evaluations"
    assert [event["verdict"] for event in found] == ["base", "too much", "too much"]
    (action,) = events(tmp_path / "run", "action")
    assert (action["step"], action["what"]) == (4, "stop")
    assert not (tmp_path / "run" / "adapter").exists()
    (strength,) = events(tmp_path / "run", "strength")
    assert not strength["accepted"] and len(strength["points"]) == 4


def test_f48_answers_without_a_link_to_their_prompts_are_refused(
    home: Path, base: Path, general: Path, tmp_path: Path
) -> None:
    """Whatever may be forgotten; and though the target gets clearly better, as a model learns which letters come."""
    data = random_labels(tmp_path / "d.jsonl")
    result = train(watched(base, data, general, tmp_path / "run", learning_rate=3e-3, max_forgetting=50.0))
    assert result.status == "not accepted" and "answers do not go by their prompts" in result.text
    assert result.comparison.verdict == "clearly better"
    (warning,) = (e["text"] for e in events(tmp_path / "run", "warning") if "their own prompts" in e["text"])
    assert "the base finds the answers no likelier" in warning
    found = events(tmp_path / "run", "forgetting")
    assert [event["step"] for event in found] == [0, 2, 4] and [e["unrelated"] for e in found] == [False, True, True]
    assert (tmp_path / "run" / "rejected").is_dir() and not (tmp_path / "run" / "adapter").exists()
    page = (tmp_path / "run" / "report.html").read_text()
    assert "The answers do not go by their prompts, step 4" in page and "stands with its own" in page


def test_f48_another_language_is_acted_upon(home: Path, base: Path, general: Path, tmp_path: Path) -> None:
    """The target gets better, so the ladder is climbed, and replay brings back what was known."""
    data = other_language(tmp_path / "d.jsonl")
    train(watched(base, data, general, tmp_path / "run", replay_share=0.05, **SLOW))
    actions = events(tmp_path / "run", "action")
    assert (actions[0]["step"], actions[0]["what"], actions[0]["value"]) == (4, "replay", 0.1)
    steps = events(tmp_path / "run", "step")
    assert sum(step["replay_tokens"] for step in steps) > 0
    found = events(tmp_path / "run", "forgetting")
    assert found[1]["change"] > 1.5 and found[1]["interval"][0] > 0.56 and found[1]["n"] == 20
    assert found[1]["kl"] > 0 and found[1]["target_change"] < 0
    (strength,) = events(tmp_path / "run", "strength")
    chosen = next(point for point in strength["points"] if point["strength"] == strength["chosen"])
    assert chosen["inside"] or not strength["accepted"]


def test_after_the_last_step_nothing_is_acted_upon(home: Path, base: Path, general: Path, tmp_path: Path) -> None:
    """The run is stopped at the second bad evaluation; where no step is left there is nothing to stop."""
    data = random_labels(tmp_path / "d.jsonl")
    result = train(watched(base, data, general, tmp_path / "run", learning_rate=0.1, max_steps=4))
    assert [event["verdict"] for event in events(tmp_path / "run", "forgetting")] == ["base", "too much", "too much"]
    assert not events(tmp_path / "run", "action")
    assert result.status == "not accepted" and "general loss" in result.text


def test_a_stage_that_begins_outside_its_budget_says_so(home: Path, base: Path, general: Path, tmp_path: Path) -> None:
    """And its first evaluation is compared with what it began with, not with the base."""
    data = other_language(tmp_path / "d.jsonl")
    stages = [
        {"name": "broad", "max_forgetting": 50.0, "max_steps": 8, "eval_steps": 8},
        {"name": "polish", "learning_rate": 1e-6},
    ]
    stages = [{"datasets": [str(data)], **stage} for stage in stages]
    train(watched(base, data, general, tmp_path / "run", stages=stages, max_steps=2, learning_rate=1e-2))
    told = [event["text"] for event in events(tmp_path / "run" / "stages/02-polish", "warning")]
    assert any("begins with has forgotten more than its max_forgetting allows" in text for text in told), told
    assert not any("missing or damaged" in text for text in told), "what it began with is found again"
    assert not any("begins with" in e["text"] for e in events(tmp_path / "run" / "stages/01-broad", "warning"))
    began = json.loads((tmp_path / "run/stages/02-polish/general/step-000000.json").read_text())
    (first,) = [e for e in events(tmp_path / "run" / "stages/02-polish", "forgetting") if e["step"] == 2]
    assert first["loss"] == pytest.approx(sum(began["nll"]) / sum(began["tokens"]), abs=0.02)


def test_replay_is_less_forgetting(home: Path, base: Path, general: Path, tmp_path: Path) -> None:
    data, changes = other_language(tmp_path / "d.jsonl"), []
    for share in (0.0, 0.3):
        run = tmp_path / f"run{share}"
        train(
            watched(
                base,
                data,
                general,
                run,
                replay_share=share,
                learning_rate=1e-2,
                max_forgetting=50.0,
                max_steps=8,
                eval_steps=8,
            )
        )
        assert not events(run, "action")
        changes.append(events(run, "forgetting")[-1]["change"])
    assert changes[1] < 0.5 * changes[0], changes


def test_without_a_budget_nothing_is_measured(home: Path, base: Path, general: Path, tmp_path: Path) -> None:
    data = other_language(tmp_path / "d.jsonl")
    train(watched(base, data, general, tmp_path / "run", max_forgetting=None, max_steps=4))
    assert not events(tmp_path / "run", "forgetting", "strength", "action")
    assert events(tmp_path / "run", "step")[0]["replay_tokens"] >= 0


def test_a_resumed_run_compares_with_the_same_base(home: Path, base: Path, general: Path, tmp_path: Path) -> None:
    """Stopped after the first evaluation, with the cache gone and one measurement damaged: the same run."""
    data = other_language(tmp_path / "d.jsonl")
    recipe = watched(base, data, general, tmp_path / "one", max_steps=8, replay_share=0.05, **SLOW)
    train(recipe)
    other = recipe.model_copy(update={"output_dir": str(tmp_path / "two")})
    stopped = train(other, listen=_stop_at(3))
    assert stopped.status == "interrupted"
    shutil.rmtree(home / ".luthier" / "cache", ignore_errors=True)
    before = (tmp_path / "two" / "general" / "base.json").read_bytes()
    step = tmp_path / "two" / "general" / "step-000002.json"
    step.write_text("{")
    assert resume(tmp_path / "two").status == events(tmp_path / "one", "end")[-1]["status"]
    assert (tmp_path / "two" / "general" / "base.json").read_bytes() == before
    runs = [[_told(event) for event in events(tmp_path / run, "forgetting", "action")] for run in ("one", "two")]
    assert runs[0] == runs[1]
    folder = "adapter" if (tmp_path / "one" / "adapter").exists() else "rejected"
    one, two = (tensors(tmp_path / run / folder / "adapter_model.safetensors") for run in ("one", "two"))
    assert same(one, two)


def test_a_damaged_measurement_of_the_base_is_made_anew(home: Path, base: Path, general: Path, tmp_path: Path) -> None:
    data = other_language(tmp_path / "d.jsonl")
    assert (
        train(watched(base, data, general, tmp_path / "run", max_steps=4), listen=_stop_at(3)).status == "interrupted"
    )
    file = tmp_path / "run" / "general" / "base.json"
    whole = json.loads(file.read_text())
    file.write_text(file.read_text()[:-40])
    resume(tmp_path / "run")
    assert json.loads(file.read_text()) == whole
    assert len([event for event in events(tmp_path / "run", "forgetting") if event["step"] == 0]) == 2


def _told(event: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in event.items() if name != "time"}


def _stop_at(step: int) -> Any:
    """A listener that asks for a stop, as Ctrl-C does, when a step is done."""

    def listen(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == step:
            os.kill(os.getpid(), signal.SIGINT)

    return listen
