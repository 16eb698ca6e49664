"""A trained model, or a base model, that answers."""

from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path

from luthier.core.errors import ModelError
from luthier.data.records import Message
from luthier.data.render import Renderer
from luthier.data.template import load_template
from luthier.data.tokenizer import Tokenizer
from luthier.models.adapter_files import CONFIG_FILE, load_adapter, read_config, read_held
from luthier.models.answer_text import AnswerText
from luthier.models.decoder import Decoder
from luthier.models.device import choose_place, keep_freed_memory
from luthier.models.generate import Sampling, generate
from luthier.models.lora import Adapter
from luthier.models.store import resolve_model
from luthier.models.unpack import unpack_to_answer
from luthier.models.weights import load_decoder
from luthier.recipe import Recipe, load_recipe
from luthier.serve.run_folder import adapter_of, run_of


class Chat:
    """A base model with at most one adapter.

    Attributes:
        name: what was loaded, for people.
        adapter: the trained weights; None for a base model.
        note: what should be known about what was loaded, or "".
    """

    def __init__(self, name: str, decoder: Decoder, adapter: Adapter | None, renderer: Renderer, note: str) -> None:
        self.name, self.decoder, self.adapter, self.renderer, self.note = name, decoder, adapter, renderer, note

    def stream(
        self,
        messages: str | Sequence[Message],
        *,
        base: bool = False,
        max_new_tokens: int = 512,
        sampling: Sampling | None = None,
        stops: Sequence[str] = (),
    ) -> Iterator[str]:
        """Yield the answer piece by piece.

        Args:
            messages: a question, or a conversation that ends with a user's message.
            base: answer without the adapter.
            max_new_tokens: the answer is cut there.
            sampling: None is greedy.
            stops: text that ends the answer, which is returned without it.

        Raises:
            ModelError: the model has no chat template, or the conversation does not fit its positions.
            DataError: the template refuses the conversation.
        """
        if isinstance(messages, str):
            messages = [Message("user", messages)]
        ids = self.renderer.render_prompt(messages)
        if len(ids) >= self.decoder.spec.max_positions:
            raise ModelError(
                f"the conversation has {len(ids)} tokens; the model takes {self.decoder.spec.max_positions}",
                fix="start a new conversation",
            )
        text = AnswerText(self.renderer.tokenizer.decode, stops)
        for token in generate(
            self.decoder,
            ids,
            stop_ids=self.renderer.stop_ids(),
            max_new_tokens=max_new_tokens,
            adapter=None if base else self.adapter,
            sampling=sampling,
        ):
            if piece := text.add(token):
                yield piece
            if text.ended:
                return
        if rest := text.finish():
            yield rest

    def answer(
        self,
        messages: str | Sequence[Message],
        *,
        base: bool = False,
        max_new_tokens: int = 512,
        sampling: Sampling | None = None,
        stops: Sequence[str] = (),
    ) -> str:
        """The whole answer; arguments as in `stream`."""
        pieces = self.stream(messages, base=base, max_new_tokens=max_new_tokens, sampling=sampling, stops=stops)
        return "".join(pieces)

    def close(self) -> None:
        """End the template's process."""
        if self.renderer.template is not None:
            self.renderer.template.close()


def load(what: str | Path, *, device: str = "auto", dtype: str | None = None) -> Chat:
    """Load a run, a PEFT adapter folder, or a base model, to talk to it.

    Args:
        what: a run folder (its adapter, or its newest checkpoint while it is unfinished), a stage's folder in one, an
            adapter folder, also one that was not accepted, or anything that `base_model` takes. An adapter answers over
            the base it was trained over: as the recipe of the run says that the folder is in, else as the adapter
            itself notes.
        device: as in the recipe.
        dtype: as in the recipe; None is what the run's recipe says, and auto for what is not in a run.

    Raises:
        RunError: an unfinished run without a checkpoint, or one whose result was not accepted.
        ModelError: the base model is not on this machine or not named, or the adapter is damaged or does not fit it.
    """
    path = Path(what)
    template_file, held, found = None, {}, adapter_of(path)
    adapter_dir, note = (None, "") if found is None else (found.folder, found.note)
    if (run := run_of(path)) is not None:
        recipe: Recipe = load_recipe(run / "recipe.yaml").recipe
        base_model, template_file, dtype = recipe.base_model, recipe.chat_template, dtype or recipe.dtype
        held = {"nf4": recipe.nf4, "nf4_head": recipe.nf4_head, "embedding_on_host": recipe.embedding_on_host}
    elif adapter_dir is not None:
        base_model = read_config(adapter_dir).get("base_model_name_or_path")
        if not base_model:
            raise ModelError(
                "the adapter does not say which model it is for",
                where=str(adapter_dir / CONFIG_FILE),
                fix="write the model's folder or name there as base_model_name_or_path",
            )
        held = read_held(adapter_dir)
    else:
        base_model = str(what)
    model_dir = resolve_model(base_model)
    place = choose_place(device, dtype or "auto")
    keep_freed_memory()
    tokenizer = Tokenizer(model_dir)
    file = Path(template_file) if template_file else None
    template = load_template(tokenizer, today=date.today(), file=file)
    decoder = load_decoder(model_dir, dtype=place.dtype, device=place.device, **held)
    adapter = load_adapter(adapter_dir, decoder.spec, device=place.device, base=decoder) if adapter_dir else None
    unpack_to_answer(decoder)  # after the adapter's tables were compared with the base's
    return Chat(str(what), decoder, adapter, Renderer(tokenizer, template), note)
