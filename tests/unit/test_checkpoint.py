"""What a checkpoint keeps, what it is compared with when it is read, and which ones are deleted."""

import json
import stat
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from safetensors.torch import save as save_tensors

from helpers_checkpoints import FACTS, TINY, Trained, digest_of, fresh, loaded, save, saved, stand
from luthier.core.errors import RunError
from luthier.core.files import read_json
from luthier.models.adapter_files import load_adapter
from luthier.train.checkpoint import (
    Progress,
    discard_after,
    facts_of,
    folder_of,
    layout_of,
    newest_good,
    prune,
)
from luthier.train.checkpoint_folder import commit, manifest_bytes, temporary_name

KINDS: list[dict[str, Any]] = [
    {},
    {"eight_bit": True},
    {"dtype": torch.bfloat16},
    {"eight_bit": True, "dtype": torch.bfloat16},
    {"dora": True, "targets": None},
    {"targets": ("q_proj", "lm_head", "embed_tokens")},
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: ", ".join(kind) or "plain")
def test_every_bit_comes_back(kind: dict[str, Any], tmp_path: Path) -> None:
    trained = stand(fresh(**kind), 50)
    folder = save(tmp_path, trained)
    assert folder == folder_of(tmp_path, 50) and folder.name == "step-000050"
    again = loaded(folder, **kind)
    assert again.digest == trained.digest and again.progress == trained.progress
    assert facts_of(folder) == FACTS


def test_peft_finds_an_adapter_in_it(tmp_path: Path) -> None:
    trained = stand(fresh(), 1)
    assert torch.equal(load_adapter(save(tmp_path, trained), TINY).flat, trained.adapter.flat)


def test_the_manifest_says_what_the_moments_belong_to(tmp_path: Path) -> None:
    trained = stand(fresh(), 1)
    folder = save(tmp_path, trained)
    layout = read_json(folder / "manifest.json")["layout"]
    moments, named = load_file(folder / "optimizer.safetensors"), trained.adapter.named()
    assert layout == layout_of(trained.adapter) and layout.keys() == named.keys()
    spans = sorted(layout.values())
    assert spans[0][0] == 0 and all(a + n == b for (a, n), (b, _) in pairwise(spans))
    for name, (start, length) in layout.items():  # the flat buffer's order is that of the moments
        assert torch.equal(trained.adapter.flat[start : start + length], named[name].flatten())
    assert moments["exp_avg"].shape == trained.adapter.flat.shape


def other_order(folder: Path, trained: Trained) -> dict[str, torch.Tensor]:
    """Rewrite a checkpoint as a version with another order of weights would have; returns the moments by weight."""
    manifest = read_json(folder / "manifest.json")
    moments = load_file(folder / "optimizer.safetensors")
    names, start, layout = sorted(manifest["layout"], reverse=True), 0, {}
    for name in names:
        layout[name] = [start, manifest["layout"][name][1]]
        start += layout[name][1]
    by_name = {n: {m: t[s : s + k] for m, t in moments.items()} for n, (s, k) in manifest["layout"].items()}
    moved = {m: torch.cat([by_name[name][m] for name in names]) for m in moments}
    files = {name: (folder / name).read_bytes() for name in manifest["files"]}
    files["optimizer.safetensors"] = save_tensors(moved)
    commit(folder.parent.parent, trained.progress.step, files, {"facts": {}, "layout": layout}, ())
    return moved


def test_moments_are_bound_by_the_weights_names(tmp_path: Path) -> None:
    trained = stand(fresh(), 50)
    folder = save(tmp_path, trained)
    moved = other_order(folder, trained)
    assert not torch.equal(moved["exp_avg"], trained.optimizer.tensors()["exp_avg"])
    assert loaded(folder).digest == trained.digest


def test_moments_in_blocks_of_another_order_are_refused(tmp_path: Path) -> None:
    trained = stand(fresh(eight_bit=True), 50)
    folder = save(tmp_path, trained)
    manifest = json.loads((folder / "manifest.json").read_bytes())
    (first, a), (second, b), *rest = manifest["layout"].items()
    layout = {first: [b[1], a[1]], second: [0, b[1]], **dict(rest)}
    content = {**manifest, "layout": layout}
    del content["sha256"]
    (folder / "manifest.json").write_bytes(manifest_bytes(content))
    with pytest.raises(RunError, match="moments in 8 bits for weights in another order"):
        loaded(folder, eight_bit=True)


@pytest.mark.parametrize(
    ("was", "now", "said"),
    [
        ({}, {"rank": 4}, r"another model, lora_r or lora_targets: 4 tensors differ, base_model\.model\."),
        ({}, {"targets": ("q_proj",)}, "2 tensors differ, .*down_proj"),
        ({}, {"targets": ("q_proj", "up_proj")}, "4 tensors differ"),
        ({}, {"alpha": 8}, "made with lora_alpha: 4, and this run has 8\n.*write lora_alpha: 4"),
        ({"rslora": True}, {}, "made with rslora: true, and this run has false"),
        ({}, {"dtype": torch.bfloat16}, "made with adapter_dtype: fp32, and this run has bf16"),
        ({"dtype": torch.bfloat16}, {"dtype": torch.float32}, "made with adapter_dtype: bf16, and this run has fp32"),
        ({}, {"eight_bit": True}, "made with optim: adamw, and this run has adamw_8bit"),
        ({"eight_bit": True}, {}, "made with optim: adamw_8bit, and this run has adamw"),
        ({}, {"dora": True}, "2 tensors differ, .*lora_magnitude_vector"),
    ],
)
def test_f20_what_the_state_does_not_fit_is_refused_by_name(
    was: dict[str, Any], now: dict[str, Any], said: str, tmp_path: Path
) -> None:
    folder = save(tmp_path, stand(fresh(**was), 50))
    with pytest.raises(RunError, match=said):
        loaded(folder, **now)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_never_saved(number: float, tmp_path: Path) -> None:
    (good,) = saved(tmp_path, 10)
    for spoil in ("weight", "moment"):
        trained = stand(fresh(), 20)
        (trained.adapter.flat if spoil == "weight" else trained.optimizer.tensors()["exp_avg_sq"])[3] = number
        named = "q_proj.lora_A.weight hold" if spoil == "weight" else "exp_avg_sq hold"
        with pytest.raises(RunError, match=rf"not saved: .*{named} numbers that are not finite"):
            save(tmp_path, trained)
    trained.adapter.flat.fill_(number)
    with pytest.raises(RunError, match="and 2 more hold"):
        save(tmp_path, trained)
    assert newest_good(tmp_path) == (good, [])
    trained = stand(fresh(eight_bit=True), 20)
    trained.optimizer.tensors()["exp_avg.scales"][0] = number
    with pytest.raises(RunError, match=r"exp_avg\.scales"):
        save(tmp_path, trained)


@pytest.mark.parametrize("guard", [{1: 2}, {"pair": (1, 2)}, {"x": float("nan")}])
def test_a_state_that_json_would_change_is_a_mistake_of_ours(guard: dict[Any, Any], tmp_path: Path) -> None:
    trained = stand(fresh(), 10)
    trained.progress.guard = guard
    with pytest.raises((AssertionError, ValueError)):
        save(tmp_path, trained)
    assert newest_good(tmp_path) == (None, [])


def test_the_same_state_is_written_once_and_another_one_of_the_same_step_replaces_it(tmp_path: Path) -> None:
    (folder,) = saved(tmp_path, 10)
    inode = folder.stat().st_ino
    assert saved(tmp_path, 10) == [folder] and folder.stat().st_ino == inode
    assert saved(tmp_path, 10, variant=1) == [folder] and folder.stat().st_ino != inode
    assert loaded(folder).digest == digest_of(10, 1)
    save(tmp_path, stand(fresh(), 10, variant=1), facts={"data": "def"})
    assert facts_of(folder) == {"data": "def"}
    assert [path.name for path in folder.parent.iterdir()] == ["step-000010"]


def test_a_broken_one_in_the_way_is_kept_aside(tmp_path: Path) -> None:
    (folder,) = saved(tmp_path, 10)
    (folder / "state.json").write_text("broken")
    saved(tmp_path, 10)
    assert loaded(folder).digest == digest_of(10)
    assert (folder.with_name("step-000010.corrupt") / "state.json").read_text() == "broken"


def test_what_a_dead_process_left_is_removed_at_the_next_start(tmp_path: Path) -> None:
    (folder,) = saved(tmp_path, 10)
    left = temporary_name(folder_of(tmp_path, 20))
    left.mkdir()
    (left / "adapter_model.safetensors").write_bytes(b"half")
    assert newest_good(tmp_path) == (folder, []) and not left.exists()


def test_prune_keeps_the_newest_and_the_protected(tmp_path: Path) -> None:
    saved(tmp_path, 0, 10, 20, 30, 40, 50)
    assert prune(tmp_path, keep=2, protect={10, 99}) == []
    assert steps_in(tmp_path) == [10, 40, 50]
    assert prune(tmp_path, keep=1) == []
    assert steps_in(tmp_path) == [50]


def test_a_rewind_gives_up_what_came_after(tmp_path: Path) -> None:
    saved(tmp_path, 10, 20, 30, 40)
    assert discard_after(tmp_path, 10, protect={30}) == []
    assert steps_in(tmp_path) == [10, 30]


def test_what_cannot_be_deleted_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path, 10, 20, 30)

    def refuse(*paths: Path) -> None:
        raise OSError(13, "Permission denied")

    monkeypatch.setattr("luthier.core.disk.Disk.replace", refuse)
    told = {step: f"step-0000{step} could not be deleted (Permission denied)" for step in (10, 20, 30)}
    assert prune(tmp_path, keep=1) == [told[20], told[10]]
    assert discard_after(tmp_path, 10) == [told[30], told[20]]


def steps_in(run_dir: Path) -> list[int]:
    return sorted(int(path.name[5:]) for path in (run_dir / "checkpoints").iterdir())


def test_nobody_else_can_read_it(tmp_path: Path) -> None:
    (folder,) = saved(tmp_path, 10)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


def test_a_fresh_run_comes_back(tmp_path: Path) -> None:
    folder = save(tmp_path, fresh())
    assert loaded(folder).digest == fresh().digest and loaded(folder).progress == Progress()
