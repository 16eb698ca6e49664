"""`luthier chat`: talk to a run, an adapter or a base model."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.columns import Columns
from rich.panel import Panel
from rich.text import Text

from luthier.cli.console import note, out
from luthier.core.errors import ModelError

if TYPE_CHECKING:
    from luthier.data.records import Message
    from luthier.models.generate import Sampling
    from luthier.serve.chat import Chat


def chat(
    what: Annotated[str, typer.Argument(help="Run folder, adapter folder, or model.")],
    prompt: Annotated[str | None, typer.Option("--prompt", "-p", help="Ask this once and exit.")] = None,
    compare: Annotated[bool, typer.Option(help="Show the base model's answer beside the tuned one's.")] = False,
    system: Annotated[str | None, typer.Option(help="System message.")] = None,
    temperature: Annotated[float, typer.Option(min=0, help="0 always takes the likeliest token.")] = 0.0,
    top_p: Annotated[float, typer.Option(min=0.01, max=1, help="Keep the likeliest tokens of this mass.")] = 1.0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 512,
    seed: Annotated[int, typer.Option(help="Of the sampling.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Talk to what was trained. An empty line starts over; Ctrl-C ends an answer; Ctrl-D leaves."""
    from luthier.data.records import Message
    from luthier.models.generate import Sampling
    from luthier.serve.chat import load

    with out.status("loading"):
        model = load(what, device=device)
    try:
        if model.note:
            note(model.note)
        if compare and model.adapter is None:
            raise ModelError(f"{what} is a base model: there is nothing to compare it with", fix="leave --compare out")
        sampling = Sampling(temperature, top_p, seed)
        opening = [Message("system", system)] if system else []
        if prompt is not None:
            _reply(model, [*opening, Message("user", prompt)], compare, max_new_tokens, sampling, [])
            return
        _converse(model, opening, compare, max_new_tokens, sampling)
    finally:
        model.close()


def _converse(
    model: "Chat", opening: list["Message"], compare: bool, max_new_tokens: int, sampling: "Sampling"
) -> None:
    from luthier.data.records import Message

    messages = list(opening)
    out.print(f"[dim]{model.name}. An empty line starts over, Ctrl-C ends an answer, Ctrl-D leaves.[/]")
    while True:
        try:
            question = out.input("[bold]you[/] ")
        except EOFError:
            out.print()
            return
        if not question.strip():
            messages = list(opening)
            out.print("[dim]new conversation[/]")
            continue
        asked = [*messages, Message("user", question)]
        said: list[str] = []
        try:
            _reply(model, asked, compare, max_new_tokens, sampling, said)
        except KeyboardInterrupt:
            out.print("[dim] (ended)[/]")
            if not said:
                continue  # as if it had not been asked
        messages = [*asked, Message("assistant", "".join(said))]


def _reply(
    model: "Chat",
    messages: list["Message"],
    compare: bool,
    max_new_tokens: int,
    sampling: "Sampling",
    said: list[str],
) -> None:
    """Print the answer as it comes, or both answers; `said` gets the pieces of the tuned one."""
    if compare:
        with out.status("both are answering"):
            base, tuned = (
                model.answer(messages, base=is_base, max_new_tokens=max_new_tokens, sampling=sampling)
                for is_base in (True, False)
            )
        width = max(30, out.width // 2 - 2)
        panels = [Panel(Text(text), title=title, width=width) for text, title in ((base, "base"), (tuned, "tuned"))]
        out.print(Columns(panels, padding=(0, 1)))
        said.append(tuned)
        return
    for piece in model.stream(messages, max_new_tokens=max_new_tokens, sampling=sampling):
        out.print(Text(piece), end="")
        said.append(piece)
    out.print()
