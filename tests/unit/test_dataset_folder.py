"""A dataset folder trains with its own sides; leaks stop a run, and only a recipe that says so lifts that."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from helpers_runs import events, make_recipe, rows_of, talk, write_rows
from luthier.core.errors import DataError
from luthier.core.files import canonical_json, read_json, write_json
from luthier.curate.example import Entry
from luthier.curate.folder import Dataset, Stored, create, example_id
from luthier.curate.materialise import materialise
from luthier.data.dataset_folder import is_dataset_folder, read_sides, repeated
from luthier.data.formats import to_record
from luthier.data.records import Message, Record
from luthier.stages.check import check
from luthier.stages.run import resume, train
from luthier.stages.sources import NOT_REPEATED, REPEATED, UNUSED

STRINGS = ("violin", "cello", "guitar", "lute", "harp", "viola", "banjo", "zither")
HELD = ("sitar", "oud")


def make_folder(
    path: Path, train: Sequence[Record], validation: Sequence[Record] = (), repeats: Sequence[float] = ()
) -> Path:
    """A dataset folder whose first records are of training and the others of validation."""
    path.mkdir()
    rows = []
    for record in (*train, *validation):
        content = canonical_json(record.as_json())
        name = example_id(content, "s", len(rows))
        rows.append(Stored(name, "s", "", record.kind, content, record.group, "", canonical_json(dict(record.meta))))
    dataset = create(path, rows, [], "0")
    sides = ["train"] * len(train) + ["validation"] * len(validation)
    if validation:
        dataset.add("split", 1, {}, [Entry(r.id, "split", "s", after=s) for r, s in zip(rows, sides, strict=True)])
    if repeats:
        made = [Entry(row.id, "repeat", "balance", score=times) for row, times in zip(rows, repeats, strict=False)]
        dataset.add("balance", 1, {}, made)
    dataset.commit(materialise(dataset))
    return path


def records(words: Sequence[str]) -> list[Record]:
    return [to_record(row, "messages", "") for row in rows_of(tuple(words))]


def data_event(recipe: Any) -> dict[str, Any]:
    return events(train(recipe).run_dir)[0]["data"]


# Reading


def test_records_come_back_as_they_were(tmp_path: Path) -> None:
    asked = (Message("user", "ask"),)
    kinds = [
        Record((*asked, Message("assistant", "said")), group="g", meta={"page": 3, "tags": ["a"]}),
        Record(text="plain words"),
        Record(asked, chosen=(Message("assistant", "good"),), rejected=(Message("assistant", "bad"),)),
        Record((*asked, Message("assistant", "said")), label=False),
        Record((*asked, Message("assistant", "", '[{"name":"f"}]'), Message("tool", "1", name="f")), tools="[]"),
    ]
    folder = make_folder(tmp_path / "d", kinds[:3], kinds[3:], repeats=[2, 0.5])
    sides = read_sides(folder)
    assert is_dataset_folder(folder) and not is_dataset_folder(tmp_path)
    assert [record.as_json() for record in sides.train + sides.validation] == [record.as_json() for record in kinds]
    assert sides.train[0].group == "g" and sides.train[0].meta == {"page": 3, "tags": ["a"]}
    assert sides.repeats == [2, 0.5, 1] and sides.train[1].where.endswith(".parquet:row 2")


def test_a_folder_that_was_changed_is_refused(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "d", records(STRINGS))
    (file,) = (folder / "data").iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:-20] + b"x" + whole[-19:])
    with pytest.raises(DataError, match="changed since it was written"):
        read_sides(folder)
    file.unlink()
    with pytest.raises(DataError, match="missing"):
        read_sides(folder)
    state = read_json(folder / "dataset.json")
    write_json(folder / "dataset.json", state | {"format": 999})
    with pytest.raises(DataError, match="newer Luthier"):
        read_sides(folder)
    (folder / "dataset.json").write_text("{")
    with pytest.raises(DataError, match=r"dataset\.json: damaged"):
        read_sides(folder)


def test_repeats_are_kept_and_a_fraction_is_a_share_of_records() -> None:
    some = [Record(text=f"text {number}") for number in range(2000)]
    assert repeated(some[:3], [1, 0, 3], seed=0) == [some[0], *[some[2]] * 3]
    made = repeated(some, [1.25] * 2000, seed=0)
    assert 2420 < len(made) < 2580 and made == repeated(some, [1.25] * 2000, seed=0)
    assert made != repeated(some, [1.25] * 2000, seed=1)


# Training


def test_a_folder_trains_with_its_own_sides(home: Path, chat_model: Path, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "d", records(STRINGS), records(HELD))
    made = data_event(make_recipe(chat_model, folder, tmp_path / "run", val_set_size=0.5))
    assert (made["rows_in"], made["train_rows"], made["val_rows"]) == (40, 32, 8)
    assert any("val_set_size applies to nothing" in note for note in made["notes"])
    assert made["sources"][0]["why"] == "dataset folder: 32 rows of training, 8 of validation"


def test_an_interrupted_run_on_a_folder_can_go_on(home: Path, chat_model: Path, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "d", records(STRINGS), records(HELD), repeats=[1.5] * 32)
    recipe = make_recipe(chat_model, folder, tmp_path / "run", max_steps=3, save_steps=1)

    class Enough(Exception):
        pass

    def stop(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == 2:
            raise Enough

    with pytest.raises(Enough):
        train(recipe, listen=stop)
    assert resume(tmp_path / "run").status == "finished"


def test_repeats_make_an_epoch(home: Path, chat_model: Path, tmp_path: Path) -> None:
    repeats = [2.0] * 4 + [0.5] * 20 + [1.0] * 8
    folder = make_folder(tmp_path / "d", records(STRINGS), records(HELD), repeats)
    made = data_event(make_recipe(chat_model, folder, tmp_path / "run"))
    left = made["dropped"][NOT_REPEATED]
    assert 0 < left < 20 and made["changed"][REPEATED] == 4
    assert made["train_rows"] + made["val_rows"] == made["rows_in"] - left + 4


def test_a_folder_and_a_file(home: Path, chat_model: Path, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "d", records(STRINGS), records(HELD))
    file = write_rows(tmp_path / "more.jsonl", rows_of(("koto", "pipa", "erhu", "saz")))
    recipe = make_recipe(chat_model, folder, tmp_path / "run", datasets=[folder, file], val_set_size=0.5)
    made = data_event(recipe)
    assert made["rows_in"] == 56 and 8 < made["val_rows"] < 24
    assert any("val_set_size applies only to the other files" in note for note in made["notes"])


def test_a_folder_without_a_validation_side_is_split(home: Path, chat_model: Path, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "d", records(STRINGS))
    made = data_event(make_recipe(chat_model, folder, tmp_path / "run", val_set_size=0.3))
    assert made["train_rows"] + made["val_rows"] == 32 and made["val_rows"] % 4 == 0 < made["val_rows"]


def test_val_datasets_win_over_the_folders_side(home: Path, chat_model: Path, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "d", records(STRINGS), records(HELD))
    other = make_folder(tmp_path / "e", records(("koto",)), records(("pipa",)))
    recipe = make_recipe(chat_model, folder, tmp_path / "run", val_datasets=[other], val_set_size=0.0)
    made = data_event(recipe)
    assert (made["train_rows"], made["val_rows"], made["dropped"][UNUSED]) == (32, 4, 8)


def test_what_is_not_trained_on_yet_follows_on_bad_row(home: Path, chat_model: Path, tmp_path: Path) -> None:
    pair = Record((Message("user", "ask"),), chosen=(Message("assistant", "a"),), rejected=(Message("assistant", "b"),))
    folder = make_folder(tmp_path / "d", [*records(STRINGS), pair], records(HELD))
    with pytest.raises(DataError, match="preference pairs are not supported yet"):
        train(make_recipe(chat_model, folder, tmp_path / "a"))
    made = data_event(make_recipe(chat_model, folder, tmp_path / "b", on_bad_row="skip"))
    assert made["dropped"] == {"preference pairs are not supported yet": 1} and made["train_rows"] == 32


def test_a_folder_has_no_type(home: Path, chat_model: Path, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "d", records(STRINGS))
    with pytest.raises(DataError, match="remove the type"):
        train(make_recipe(chat_model, folder, tmp_path / "a", datasets=[{"path": folder, "type": "messages"}]))


def test_an_empty_folder_is_refused(home: Path, chat_model: Path, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "d", records(STRINGS[:1]))
    dataset = Dataset(folder)
    gone = [Entry(example.id, "drop", "x") for part in dataset.map(list) for example in part]
    dataset.add("defects", 1, {}, gone)
    dataset.commit(materialise(dataset))
    with pytest.raises(DataError, match="no record left"):
        train(make_recipe(chat_model, folder, tmp_path / "a"))


# Leaks


def test_leaks_stop_a_check_and_a_run_until_they_are_allowed(home: Path, chat_model: Path, tmp_path: Path) -> None:
    extra = [
        talk(f"Who first built the instrument called {word}?", f"Nobody knows who built it: {word}") for word in "abcde"
    ]
    file = write_rows(tmp_path / "train.jsonl", [*rows_of(), *extra])
    held = write_rows(tmp_path / "held.jsonl", [*rows_of(("oud",)), *extra])
    fields = {"val_datasets": [held], "val_set_size": 0.0}
    for act in (check, train):
        with pytest.raises(DataError) as caught:
            act(make_recipe(chat_model, file, tmp_path / "run", **fields))
        text = str(caught.value)
        assert "5 training records repeat what it is measured by (5 of validation)" in text
        assert text.count("train.jsonl:4") == 3 and text.count("held.jsonl:") == 3  # three of five are shown
        assert "same prompt: Who first built the instrument called a?" in text and "allow_leaks: true" in text
    made = data_event(make_recipe(chat_model, file, tmp_path / "run", allow_leaks=True, **fields))
    assert made["train_rows"] == 45
    assert any(note.startswith("5 training records repeat") and "allowed" in note for note in made["notes"])


def test_leaks_of_a_folder_stop_a_run(home: Path, chat_model: Path, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "d", records((*STRINGS, "oud")), records(HELD))
    with pytest.raises(DataError, match="4 training records repeat"):
        train(make_recipe(chat_model, folder, tmp_path / "a"))


def test_a_repeated_record_is_one_leak(home: Path, chat_model: Path, tmp_path: Path) -> None:
    one = records(HELD)[:1]
    folder = make_folder(tmp_path / "d", [*records(STRINGS), *one], records(HELD), [1.0] * 32 + [3.0])
    with pytest.raises(DataError, match="1 training record repeats"):
        train(make_recipe(chat_model, folder, tmp_path / "a"))


def test_an_evaluation_set_that_is_not_understood_stops_a_run(home: Path, chat_model: Path, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "talks.jsonl", rows_of())
    exam = write_rows(tmp_path / "exam.jsonl", [{"premise": "a", "hypothesis": "b"}])
    with pytest.raises(DataError, match=r"exam\.jsonl:1: no prompt in this evaluation row"):
        train(make_recipe(chat_model, file, tmp_path / "a", eval_sets=[exam]))
