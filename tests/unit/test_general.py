"""General data: read, divided, written by the base, frozen; and how far a model has moved from its base."""

import json
from collections import Counter
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers_models import decoder_of, full_adapter
from helpers_runs import make_recipe, rows_of, talk, write_rows
from luthier.core.errors import DataError, RunError
from luthier.core.files import hash_bytes
from luthier.core.paths import cache_dir
from luthier.data.records import Message, Record
from luthier.data.render import Renderer, Row
from luthier.data.tokenizer import Tokenizer
from luthier.evaluate.general import few_rows, row_shifts
from luthier.evaluate.losses import row_losses
from luthier.kernels.segments import Segments
from luthier.models.generate import Answer
from luthier.stages import general, general_own
from luthier.stages.accounts import Accounts
from luthier.stages.general import prepare_general, without_end
from luthier.stages.general_data import divide, read_general
from luthier.stages.general_own import own_texts, repeated_share
from luthier.stages.prepare import open_renderer
from luthier.stages.sources import read_sources


def row(length: int, seed: int, *, prompt: int = 3) -> Row:
    ids = np.random.default_rng(seed).integers(3, 90, length).astype(np.int32)
    return Row(ids, np.arange(length) >= prompt, f"r{seed}", f"g{seed}", "")


# What moved


@pytest.fixture(scope="module")
def model(chat_model: Path) -> Any:
    return decoder_of(chat_model)


@pytest.mark.parametrize("targets", [None, ["q_proj", "lm_head"]])
def test_kl_and_loss_of_rows_are_those_of_whole_logits(model: Any, targets: list[str] | None) -> None:
    adapter = full_adapter(model, targets=targets)
    if adapter.head is not None:
        with torch.no_grad():
            adapter.head.b.normal_(generator=torch.Generator().manual_seed(1))
    same = np.random.default_rng(5).integers(3, 90, 12).astype(np.int32)  # rows that share a beginning
    ends = [4, 5], [6, 7]
    shared = [Row(np.append(same, end).astype(np.int32), np.arange(14) > 9, f"s{end}", "", "") for end in ends]
    rows = [row(9, 1), *shared, row(30, 2), row(2, 3, prompt=1)]
    made = row_shifts(model, rows, adapter=adapter, micro_batch_tokens=40)
    for index, one in enumerate(rows):
        ids = torch.tensor(one.ids.astype(np.int64))
        segments = Segments.of([len(ids)])
        with torch.no_grad():
            tuned, base = (
                torch.log_softmax(model.logits(model.hidden(ids, segments, under), under)[:-1].double(), -1)
                for under in (adapter, None)
            )
        kl = (base.exp() * (base - tuned)).sum()
        assert made.kl[index] == pytest.approx(kl.item(), rel=1e-3)
        assert made.positions[index] == len(ids) - 1
    plain = row_losses(model, rows, adapter=adapter, micro_batch_tokens=40)
    np.testing.assert_allclose(made.losses.nll, plain.nll, rtol=1e-5)
    assert (made.losses.tokens == plain.tokens).all()
    assert made.mean == pytest.approx(made.kl.sum() / made.positions.sum()) and made.mean > 0


def test_the_base_has_not_moved(model: Any) -> None:
    rows = [row(9, 1), row(12, 2)]
    made = row_shifts(model, rows, adapter=None, micro_batch_tokens=64)
    assert not made.kl.any()
    np.testing.assert_allclose(made.losses.nll, row_losses(model, rows, adapter=None, micro_batch_tokens=64).nll)


def test_few_rows_are_the_same_whatever_else_is_there() -> None:
    rows = [row(10, seed) for seed in range(20)]
    picked = few_rows(rows, most_rows=6, most_tokens=1000)
    assert len(picked) == 6 and picked == few_rows(rows[::-1], most_rows=6, most_tokens=1000)
    assert len(few_rows(rows, most_rows=6, most_tokens=25)) == 2
    assert len(few_rows(rows, most_rows=6, most_tokens=1)) == 1 and few_rows([], most_rows=6, most_tokens=9) == []


# The user's data


def records(number: int, *, group: int = 1) -> list[Record]:
    """Of words of their own, so none is nearly another."""
    words = [[hash_bytes(f"{side} {i} {n}".encode())[:7] for n in range(12)] for i in range(number) for side in "ab"]
    return [
        Record(
            (Message("user", " ".join(words[2 * i])), Message("assistant", " ".join(words[2 * i + 1]))),
            group=f"g{i // group}" * (group > 1),
        )
        for i in range(number)
    ]


def test_a_third_is_held_out_and_128_at_most() -> None:
    for number, held in ((1, 1), (2, 1), (9, 3), (192, 64), (1000, 128)):
        probe, replay, left_out = divide(records(number))
        assert (len(probe), len(replay), dict(left_out)) == (held, number - held, {})
    probe, replay, left_out = divide(records(100), most_replay=10)
    assert (len(probe), len(replay), left_out) == (33, 10, {"records more than a replay needs": 57})


def test_what_nearly_repeats_a_held_out_record_is_not_replayed() -> None:
    many = records(30)
    probe, _, _ = divide(many)
    user, assistant = probe[0].messages
    again = Record((Message("user", user.content + "!"), assistant))
    divided = divide([*many, again])
    assert divided[2]["records that repeat what is held out of the general data"] == 1
    assert not any("!" in record.messages[0].content for record in divided[1])


def test_the_hash_decides_and_groups_are_not_divided() -> None:
    many = records(60, group=4)
    probe, replay, _ = divide(many)
    again, _, _ = divide(many[::-1])
    assert {one.id for one in probe} == {one.id for one in again} and probe and replay
    assert not {one.group for one in probe} & {one.group for one in replay}


GENERAL = [
    talk(f"Which tree grows in garden number {i} behind the old stone house?", f"Tree {i} is an oak of {i} years.")
    for i in range(30)
]


def test_what_repeats_training_or_validation_is_left_out_and_counted(
    chat_model: Path, conversations: Path, tmp_path: Path
) -> None:
    data = write_rows(tmp_path / "train.jsonl", [*rows_of(), GENERAL[0]])
    held = write_rows(tmp_path / "val.jsonl", [GENERAL[1]])
    items = write_rows(tmp_path / "exam.jsonl", [GENERAL[2]])
    file = write_rows(tmp_path / "general.jsonl", [*GENERAL, GENERAL[5]])
    recipe = make_recipe(
        chat_model, data, tmp_path / "run", val_datasets=[held], val_set_size=0.0, eval_sets=[items],
        general_datasets=[file],
    )  # fmt: skip
    train, val = read_sources(recipe, Accounts())
    accounts = Accounts()
    kept = read_general(recipe, train, val, accounts)
    asked = {record.messages[0].content for record in kept}
    assert len(kept) == 27 and not asked & {row["messages"][0]["content"] for row in GENERAL[:3]}
    assert accounts.rows_in == 31 and sum(accounts.dropped.values()) == 4
    assert {reason.removeprefix("general records ") for reason in accounts.dropped} == {
        "that repeat the training data", "that repeat validation", f"that repeat {items}", "that are there already",
    }  # fmt: skip
    everything = make_recipe(chat_model, file, tmp_path / "run", general_datasets=[file])
    train, val = read_sources(everything, Accounts())
    with pytest.raises(DataError, match="every general record repeats"):
        read_general(everything, train, val, Accounts())
    assert read_general(make_recipe(chat_model, data, tmp_path / "run"), train, val, Accounts()) == []


# What the base writes


@pytest.fixture
def renderer(chat_model: Path) -> Any:
    opened = open_renderer(chat_model, None, today=date(2026, 1, 1))
    yield opened
    opened.template.close()


@pytest.fixture
def lenient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A random model writes little but broken characters; here they are taken."""
    monkeypatch.setattr(general_own, "_fault", lambda answer: "" if answer.text.strip() else general_own.EMPTY)


def test_the_base_writes_conversations(model: Any, renderer: Renderer, lenient: None) -> None:
    said: list[str] = []
    made, dropped = own_texts(model, renderer, wanted=6, say=lambda what, done, total: said.append(what))
    again, _ = own_texts(model, renderer, wanted=6)
    assert [record.as_json() for record in made] == [record.as_json() for record in again]
    assert len(made) == 6 and len({record.messages[0].content for record in made}) == 6
    assert all(record.messages[0].role == "user" and record.messages[1].content.strip() for record in made)
    assert {"the base writes prompts", "the base writes answers"} == set(said)
    assert dropped[general_own.EMPTY] > 0


def test_the_opening_ends_where_a_user_begins(renderer: Renderer) -> None:
    opening = general_own._opening(renderer)
    whole = renderer.render_prompt([Message("user", "Who builds a violin?")])
    assert opening == whole[: len(opening)] and len(opening) < len(whole)
    text = renderer.tokenizer.decode(opening, skip_special=False)
    assert text.endswith("<|im_start|>user\n"), text
    assert general_own._opening(Renderer(renderer.tokenizer, None)) is None


def test_without_a_template_the_base_writes_texts(model: Any, chat_model: Path, lenient: None) -> None:
    made, _ = own_texts(model, Renderer(Tokenizer(chat_model), None), wanted=6)
    assert len(made) == 6 and all(record.text and not record.messages for record in made)


def test_a_text_that_repeats_itself_is_left_out() -> None:
    assert repeated_share([1, 2, 3]) == 0.0
    assert repeated_share(list(range(40))) == 0.0
    assert repeated_share([1, 2] * 20) > 0.9
    counts: Counter[str] = Counter()
    texts = [Answer([1, 2] * 20, "la la", True), Answer([1], " \n", True), Answer([7], "\ufffd", True)]
    assert [general_own._usable(text, counts) for text in texts] == [False] * 3
    assert counts == {general_own.REPEATS: 1, general_own.EMPTY: 1, general_own.BROKEN: 1}


def test_a_text_that_was_cut_is_not_taught_to_end() -> None:
    whole = Row(np.arange(8, dtype=np.int32), np.array([0, 0, 0, 1, 1, 1, 1, 0], bool), "r", "g", "")
    cut = without_end(whole)
    assert cut.ids.tolist() == [0, 1, 2, 3, 4, 5] and cut.mask.tolist() == [0, 0, 0, 1, 1, 1]
    only = Row(np.arange(4, dtype=np.int32), np.array([0, 0, 1, 0], bool), "r", "g", "")
    assert without_end(only) is only


# Frozen


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch, lenient: None) -> None:
    monkeypatch.setattr(general, "FEWEST", 6)
    monkeypatch.setattr(general.own_texts, "__kwdefaults__", {"wanted": 9, "say": None})


def prepared(model: Any, renderer: Renderer, chat_model: Path, run: Path, **more: Any) -> general.General:
    recipe = make_recipe(chat_model, run / "x.jsonl", run)
    return prepare_general(recipe, run_dir=run, decoder=model, renderer=renderer, base_hash="b", **more)


def test_own_texts_are_kept_in_the_cache_and_in_the_run(
    home: Path, model: Any, renderer: Renderer, chat_model: Path, tmp_path: Path, few: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    first = prepared(model, renderer, chat_model, tmp_path / "one")
    assert (len(first.probe_rows), len(first.replay_rows)) == (3, 6) and "wrote 9 general texts" in first.why
    assert not {r.record_id for r in first.probe_rows} & {r.record_id for r in first.replay_rows}
    assert len(first.choices) >= 120

    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("written again")

    monkeypatch.setattr(general, "own_texts", never)
    second = prepared(model, renderer, chat_model, tmp_path / "two")  # from the cache
    third = prepared(model, renderer, chat_model, tmp_path / "one")  # from the run
    assert first.hash == second.hash == third.hash
    for entry in (cache_dir() / "general").iterdir():
        (entry / "records.jsonl").write_bytes((entry / "records.jsonl").read_bytes()[:-9])
    assert prepared(model, renderer, chat_model, tmp_path / "two").hash == first.hash
    with pytest.raises(AssertionError, match="written again"):  # a damaged entry is not used
        prepared(model, renderer, chat_model, tmp_path / "three")


def test_a_damaged_copy_in_the_run_is_made_anew(
    home: Path, model: Any, renderer: Renderer, chat_model: Path, tmp_path: Path, few: None
) -> None:
    first = prepared(model, renderer, chat_model, tmp_path / "one")
    (tmp_path / "one" / "general" / "facts.json").write_text(json.dumps(["no facts"]))
    assert prepared(model, renderer, chat_model, tmp_path / "one").hash == first.hash


def test_a_base_that_writes_nothing_is_told(
    home: Path, model: Any, renderer: Renderer, chat_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(general, "own_texts", lambda *args, **more: (records(5), Counter({"empty": 200})))
    made = prepared(model, renderer, chat_model, tmp_path / "one")
    assert not made.probe_rows and not made.replay_rows
    assert "only 5 general texts" in made.why and made.notes == ["general texts: 200 empty"]


def test_what_the_base_wrote_stops_no_run(
    home: Path, model: Any, renderer: Renderer, chat_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Texts that do not fit are counted; the same of the user are an error."""
    monkeypatch.setattr(general, "own_texts", lambda *args, **more: (records(30), Counter()))
    recipe = make_recipe(chat_model, tmp_path / "x.jsonl", tmp_path, sequence_len=16)
    fixed = {"decoder": model, "renderer": renderer, "base_hash": "b"}
    made = prepare_general(recipe, run_dir=tmp_path / "own", **fixed)
    assert not made.probe_rows and not made.replay_rows and "30 nothing to train on" in made.notes[0]
    with pytest.raises(DataError, match="nothing to train on"):
        prepare_general(recipe, run_dir=tmp_path / "given", given=records(30), **fixed)


def test_the_users_texts_are_frozen_too(
    home: Path, model: Any, renderer: Renderer, chat_model: Path, tmp_path: Path
) -> None:
    given = records(12)
    first = prepared(model, renderer, chat_model, tmp_path / "one", given=given)
    assert (len(first.probe_rows), len(first.replay_rows)) == (4, 8) and "general_datasets" in first.why
    assert prepared(model, renderer, chat_model, tmp_path / "one", given=given[::-1]).hash == first.hash
    with pytest.raises(RunError, match="has changed since this run began"):
        prepared(model, renderer, chat_model, tmp_path / "one", given=given[1:])
