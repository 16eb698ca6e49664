"""What the path through `transformers` refuses, by name, before it could compute something else than it says."""

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from helpers_fallback import change_config, make_other
from helpers_models import make_twin
from luthier.core.errors import ModelError
from luthier.kernels.segments import Segments
from luthier.models.adapter_files import load_adapter
from luthier.models.decoder import Decoder
from luthier.models.weights import load_decoder

TOKENS = torch.arange(3, 12)


def logits_of(decoder: Decoder, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        return decoder.logits(decoder.hidden(tokens, Segments.of([len(tokens)])))


def refusal(folder: Path) -> str:
    with pytest.raises(ModelError) as error:
        load_decoder(folder, dtype=torch.float32)
    return str(error.value)


def test_unknown_types_are_refused_by_name(tmp_path: Path) -> None:
    make_twin(tmp_path, "llama")
    change_config(tmp_path, model_type="phi3small")
    assert 'architecture "phi3small" is not supported' in refusal(tmp_path)
    change_config(tmp_path, auto_map={"AutoModelForCausalLM": "modeling_phi3_small.Phi3SmallForCausalLM"})
    (tmp_path / "modeling_phi3_small.py").write_text("raise SystemExit('this was run')")
    assert "code of its own, which is never run" in refusal(tmp_path)


def test_code_beside_a_known_type_is_not_run(tmp_path: Path) -> None:
    make_other(tmp_path, "olmo2")
    before = load_decoder(tmp_path, dtype=torch.float32)
    change_config(tmp_path, auto_map={"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"})
    (tmp_path / "mine.py").write_text("raise SystemExit('this was run')")
    after = load_decoder(tmp_path, dtype=torch.float32)
    assert torch.equal(logits_of(before, TOKENS), logits_of(after, TOKENS))


CHANGED: dict[str, tuple[str, dict[str, Any], str]] = {
    "dynamic rope": (
        "olmo2", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}, "dynamic"),
    "later tokens": ("gemma", {"use_bidirectional_attention": True}, "later tokens"),
    "later tokens, ours": ("llama", {"use_bidirectional_attention": True}, "later tokens"),
    "quantised": ("olmo2", {"quantization_config": {"quant_method": "fp8"}}, r"already quantised \(fp8\)"),
    "a wrong value": ("olmo2", {"num_hidden_layers": "two"}, "transformers cannot read it"),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "changes", "said"), CHANGED.values(), ids=CHANGED)
def test_what_cannot_be_trained_is_refused(tmp_path: Path, kind: str, changes: dict[str, Any], said: str) -> None:
    make_other(tmp_path, kind)
    change_config(tmp_path, **changes)
    with pytest.raises(ModelError, match=said):
        load_decoder(tmp_path, dtype=torch.float32)


def test_a_model_that_is_no_decoder_is_refused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    shape = {"vocab_size": 160, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2,
             "num_attention_heads": 6}  # fmt: skip
    model = transformers.BertLMHeadModel(transformers.BertConfig(**shape, is_decoder=False))
    for parameter in model.parameters():
        parameter.data.mul_(4)
    model.save_pretrained(tmp_path / "bert")
    assert "later tokens" in refusal(tmp_path / "bert") or "not a plain linear" in refusal(tmp_path / "bert")
    (tmp_path / "t5").mkdir()
    transformers.BartConfig().save_pretrained(tmp_path / "t5")
    assert "has an encoder" in refusal(tmp_path / "t5")


def test_later_tokens_that_are_seen_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that mixes in the mean over all positions."""
    make_other(tmp_path, "olmo2")
    from transformers.models.olmo2.modeling_olmo2 import Olmo2MLP

    plain = Olmo2MLP.forward
    monkeypatch.setattr(Olmo2MLP, "forward", lambda self, x: plain(self, x) + x.mean(1, keepdim=True))
    assert "Olmo2ForCausalLM looks at later tokens" in refusal(tmp_path)


def test_what_is_done_to_logits_and_not_known_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_other(tmp_path, "olmo2")
    from transformers import Olmo2ForCausalLM

    plain = Olmo2ForCausalLM.forward

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        out = plain(self, *args, **kwargs)
        out.logits = out.logits.relu()
        return out

    monkeypatch.setattr(Olmo2ForCausalLM, "forward", forward)
    assert "packed rows come out otherwise" in refusal(tmp_path)


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    make_other(tmp_path, "olmo2")
    file = tmp_path / "model.safetensors"
    stored = load_file(file)
    name = "model.layers.1.self_attn.q_norm.weight"
    save_file({key: value for key, value in stored.items() if key != name}, file, {"format": "pt"})
    assert f"the weights lack {name}" in refusal(tmp_path)
    save_file(stored | {"model.layers.1.extra": stored[name].clone()}, file, {"format": "pt"})
    assert "hold without a place for it model.layers.1.extra" in refusal(tmp_path)
    save_file(stored | {name: stored[name][:5].clone()}, file, {"format": "pt"})
    assert f"the weights have another shape of {name}" in refusal(tmp_path)


def test_fields_of_our_own_decoder_are_refused(tmp_path: Path) -> None:
    make_other(tmp_path, "olmo2")
    for field in ("nf4_head", "embedding_on_host"):
        with pytest.raises(ModelError, match=f"{field} is for our own families"):
            load_decoder(tmp_path, dtype=torch.float32, **{field: True})


@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`")
def test_adapters_of_tables_are_refused(tmp_path: Path) -> None:
    make_other(tmp_path, "olmo2")
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    config = peft.LoraConfig(r=3, target_modules=["q_proj", "lm_head"], task_type="CAUSAL_LM")
    peft.get_peft_model(model, config).save_pretrained(tmp_path / "adapter")
    decoder = load_decoder(tmp_path, dtype=torch.float32)
    with pytest.raises(ModelError, match=r"target_modules=.*lm_head.*this version runs q_proj"):
        load_adapter(tmp_path / "adapter", decoder.spec, base=decoder)
