"""Talking to what was trained: over the base it was trained over, piece by piece, up to a stop string."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file

from helpers_models import make_twin
from helpers_runs import make_chat_model, make_recipe, write_conversations
from luthier import load, train
from luthier.cli import chat as cli
from luthier.core.errors import ModelError
from luthier.core.hardware import Memory
from luthier.data.records import Message
from luthier.kernels.nf4 import NF4Weight, native
from luthier.models import unpack
from luthier.models.adapter_files import read_held
from luthier.models.generate import Sampling, generate
from luthier.models.nf4_head import NF4Head
from luthier.models.unpack import unpack_to_answer
from luthier.models.weights import load_decoder
from luthier.stages.samples import answer_samples, choose_samples

QUESTION = "What is a violin?"
BLOCKS = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_chat_model(tmp_path_factory.mktemp("model"), seed=2, **BLOCKS)


@pytest.fixture(scope="module")
def run(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over four bits with adapter and checkpoints."""
    folder = tmp_path_factory.mktemp("run")
    data = write_conversations(folder / "rows.jsonl")
    recipe = make_recipe(model, data, folder / "run", adapter="qlora", nf4_head=True, save_steps=1, num_samples=3)
    return train(recipe).run_dir


def answers(what: Path) -> tuple[str, str]:
    chat = load(what, device="cpu", dtype="fp32")
    try:
        return chat.answer(QUESTION, max_new_tokens=12), chat.answer(QUESTION, max_new_tokens=12, base=True)
    finally:
        chat.close()


def test_an_adapter_by_itself_answers_over_the_base_it_was_trained_over(
    run: Path, model: Path, tmp_path: Path, home: Path
) -> None:
    shutil.copytree(run / "adapter", tmp_path / "copied")
    assert read_held(tmp_path / "copied") == {"nf4": True, "nf4_head": True}
    chat, plain = load(tmp_path / "copied", device="cpu", dtype="fp32"), load(model, device="cpu", dtype="fp32")
    held = load_decoder(model, dtype=torch.float32, nf4=True, nf4_head=True)
    assert torch.equal(chat.decoder.head.dense(), held.head.dense())
    assert not torch.equal(chat.decoder.head.dense(), plain.decoder.head.dense())
    for ours, theirs in zip(chat.decoder.layers, held.layers, strict=True):
        assert torch.equal(ours.down.weight.dense(), theirs.down.weight.dense())
    chat.close()
    plain.close()
    assert answers(tmp_path / "copied") == answers(run) == answers(run / "adapter")
    newest = max((run / "checkpoints").iterdir())
    assert answers(newest)[1] == answers(run)[1], "a checkpoint of a run is talked to over the run's base"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_run_is_talked_to_in_the_dtype_of_its_recipe(
    run: Path, tmp_path: Path, home: Path, dtype: torch.dtype
) -> None:
    """Whichever of the two this machine would take by itself."""
    name = {torch.bfloat16: "bf16", torch.float32: "fp32"}[dtype]
    for part in ("events.jsonl", "recipe.yaml"):
        (tmp_path / part).write_text((run / part).read_text().replace("dtype: fp32", f"dtype: {name}"))
    shutil.copytree(run / "adapter", tmp_path / "adapter")
    for what in (tmp_path, tmp_path / "adapter"):
        chat = load(what, device="cpu")
        assert chat.decoder.dtype == dtype
        chat.close()
    chat = load(tmp_path, device="cpu", dtype="fp32")
    assert chat.decoder.dtype == torch.float32
    chat.close()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{broken", "damaged: Expecting property name"),
        ("[]", "not the settings of an adapter"),
        ('{"r": 2, "base_model_name_or_path": "m"}', "lora_alpha is missing"),
        ('{"r": 2, "lora_alpha": 4, "base_model_name_or_path": null}', "does not say which model it is for"),
    ],
)
def test_an_adapter_with_settings_that_are_none(run: Path, tmp_path: Path, home: Path, text: str, said: str) -> None:
    shutil.copytree(run / "adapter", tmp_path / "copied")
    (tmp_path / "copied/adapter_config.json").write_text(text)
    with pytest.raises(ModelError, match=said):
        load(tmp_path / "copied", device="cpu")


@pytest.mark.filterwarnings("ignore::UserWarning:peft")  # that tables are in target_modules
def test_tables_beside_an_adapter_are_compared_before_the_head_is_unpacked(
    model: Path, tmp_path: Path, home: Path
) -> None:
    """PEFT writes the tables of full precision; a head in 4 bits has other numbers, unpacked too."""
    data = write_conversations(tmp_path / "rows.jsonl")
    targets = ["q_proj", "lm_head"]
    run = train(
        make_recipe(model, data, tmp_path / "run", adapter="qlora", nf4_head=True, lora_targets=targets)
    ).run_dir
    base = transformers.AutoModelForCausalLM.from_pretrained(model)
    before = answers(run)
    peft.PeftModel.from_pretrained(base, run / "adapter").save_pretrained(run / "adapter")
    assert any("base_layer" in name for name in load_file(run / "adapter/adapter_model.safetensors"))
    assert answers(run) == before


def test_peft_loads_an_adapter_that_notes_its_base(run: Path, model: Path) -> None:
    base = transformers.AutoModelForCausalLM.from_pretrained(model)
    loaded = peft.PeftModel.from_pretrained(base, run / "adapter")
    assert any("lora_B" in name for name, _ in loaded.named_parameters())


def test_nothing_is_noted_of_a_base_in_full(model: Path, tmp_path: Path, home: Path) -> None:
    data = write_conversations(tmp_path / "rows.jsonl")
    run = train(make_recipe(model, data, tmp_path / "run")).run_dir
    assert read_held(run / "adapter") == {}
    (tmp_path / "run/adapter/adapter_model.safetensors").write_bytes(b"broken")
    with pytest.raises(ModelError, match="damaged"):
        read_held(run / "adapter")


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without a C compiler."""
    missing = native.Missing("no C compiler (cc) was found")
    monkeypatch.setattr(native, "loaded", lambda: missing)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_unpacked_it_is_the_same_base(model: Path, dtype: torch.dtype, uncompiled: None) -> None:
    four, unpacked = (load_decoder(model, dtype=dtype, nf4=True, nf4_head=True) for _ in range(2))
    assert unpack_to_answer(unpacked) and not unpack_to_answer(unpacked)
    assert not isinstance(unpacked.head, NF4Head)
    for ours, theirs in zip(unpacked.layers, four.layers, strict=True):
        for name in four.spec.linear_shapes:
            assert not isinstance(getattr(ours, name).weight, NF4Weight)
            assert torch.equal(getattr(ours, name).weight.dense(), getattr(theirs, name).weight.dense())
    if dtype == torch.float32:
        prompt = [5, 9, 30, 7]
        made = [list(generate(d, prompt, stop_ids=frozenset(), max_new_tokens=12)) for d in (four, unpacked)]
        assert made[0] == made[1]


def test_without_memory_it_stays_in_four_bits(model: Path, monkeypatch: pytest.MonkeyPatch, uncompiled: None) -> None:
    decoder = load_decoder(model, dtype=torch.float32, nf4=True)
    numbers = decoder.spec.num_linear_parameters
    monkeypatch.setattr(unpack, "memory", lambda: Memory(10**12, 2 * 4 * numbers - 1))
    assert not unpack_to_answer(decoder) and isinstance(decoder.layers[1].o.weight, NF4Weight)
    monkeypatch.setattr(unpack, "memory", lambda: Memory(10**12, 2 * 4 * numbers))
    assert unpack_to_answer(decoder)


def test_what_c_multiplies_stays_in_four_bits(run: Path, tmp_path: Path, home: Path) -> None:
    """A quarter of the memory, as fast for one conversation; a layout that C does not read is unpacked."""
    if isinstance(native.loaded(), native.Missing):
        pytest.skip(f"{native.loaded()}")
    chat = load(run, device="cpu", dtype="fp32")
    assert isinstance(chat.decoder.head, NF4Head) and isinstance(chat.decoder.layers[0].qkv.weight, NF4Weight)
    chat.close()
    make_twin(tmp_path, "llama", **{**BLOCKS, "intermediate_size": 96})  # rows of down_proj end within a block
    decoder = load_decoder(tmp_path, dtype=torch.float32, nf4=True)
    layer = decoder.layers[0]
    assert unpack_to_answer(decoder)
    assert isinstance(layer.o.weight, NF4Weight) and not isinstance(layer.down.weight, NF4Weight)


def test_a_base_in_full_is_left_alone(tmp_path: Path) -> None:
    make_twin(tmp_path, "llama")
    decoder = load_decoder(tmp_path, dtype=torch.float32)
    before = [layer.qkv.weight for layer in decoder.layers]
    assert not unpack_to_answer(decoder) and before == [layer.qkv.weight for layer in decoder.layers]


def test_a_stop_string_ends_the_stream(model: Path) -> None:
    chat = load(model, device="cpu", dtype="fp32")
    whole = chat.answer(QUESTION, max_new_tokens=30)
    assert len(whole) > 8
    stop = whole[5:8]
    cut = chat.answer(QUESTION, max_new_tokens=30, stops=[stop])
    assert cut == whole[: whole.find(stop)]
    assert "".join(chat.stream(QUESTION, max_new_tokens=30, stops=["no such text"])) == whole
    chat.close()


def test_samples_are_one_batch_and_each_as_alone(run: Path, home: Path) -> None:
    from luthier.data.read import read_records

    chat = load(run, device="cpu", dtype="fp32")
    records = choose_samples(read_records(run.parent / "rows.jsonl").records, 4, seed=0)
    said: list[tuple[str, int, int]] = []
    made = answer_samples(
        chat.decoder, chat.adapter, chat.renderer, records, max_new_tokens=10, say=lambda *news: said.append(news)
    )
    for record, sample in zip(records, made, strict=True):
        assert sample["answer"] == chat.answer(record.messages[:-1], max_new_tokens=10)
        assert sample["expected"] == record.messages[-1].content and sample["record_id"] == record.id
    assert said == sorted(said) and said[-1] == ("sample answers", 4, 4)
    assert answer_samples(chat.decoder, None, chat.renderer, [], max_new_tokens=10) == []
    chat.close()


def test_ctrl_c_ends_the_answer_and_not_the_conversation(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[list[tuple[str, str]]] = []

    class Talker:
        name = "talker"

        def stream(self, messages: list[Message], **more: Any) -> Iterator[str]:
            heard.append([(message.role, message.content) for message in messages])
            if messages[-1].content == "slow":
                raise KeyboardInterrupt
            yield "Wo"
            if messages[-1].content == "long":
                raise KeyboardInterrupt
            yield "od."

    lines = iter(["long", "slow", "again", "", "new"])

    def typed(_: str) -> str:
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr(cli.out, "input", typed)
    cli._converse(Talker(), [Message("system", "Be brief.")], False, 5, Sampling())  # type: ignore[arg-type]
    opening, cut = ("system", "Be brief."), [("user", "long"), ("assistant", "Wo")]
    assert heard == [
        [opening, ("user", "long")],
        [opening, *cut, ("user", "slow")],
        [opening, *cut, ("user", "again")],
        [opening, ("user", "new")],
    ]
