"""From a record to token ids and a loss mask that is proven.

A record's answers are located in the text the template writes (`spans.py`), the text is cut at the edges of the
answers, and each stretch is encoded on its own. So a token is never half prompt and half answer, the ids before an
answer are exactly those the model gets when it has to write it, and the mask is right by construction. That it is
right is then checked again from the ids alone, for every row, and a row that fails is an error.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from luthier.core.errors import DataError
from luthier.data.proof import flatten, prove, shown
from luthier.data.records import Message, Record
from luthier.data.spans import (
    Disguise,
    Turn,
    answer_requests,
    check_text,
    find_turn,
    group_turns,
    hide_messages,
)
from luthier.data.template import ChatTemplate, Conversation, missing_template
from luthier.data.tokenizer import Piece, Place, Tokenizer

RENDER_VERSION = 1  # raise it when the same record renders to other ids or another mask

SPLIT = "rows added: the template rewrites earlier turns, so each answer is trained as it will be asked for"
NO_STOP = "answers ended with {eos}: the template writes no stop token"
UNASKED = "answers that begin otherwise than the template's generation prompt"
MOVED = "answers put behind their generation prompt: the template writes finished conversations otherwise"
TEXT_END = "plain text rows ended with {eos}"


@dataclass(frozen=True, slots=True)
class Row:
    """What the model is trained on.

    Attributes:
        ids: (T,) int32, the tokens.
        mask: (T,) bool; mask[t] says that token t is a target, predicted from the tokens before it. mask[0] is False.
        record_id: id of the record it came from; a record can have several rows.
        group: the record's group, or its id if it has none.
        where: file and line of the record.
    """

    ids: NDArray[np.int32]
    mask: NDArray[np.bool_]
    record_id: str
    group: str
    where: str


@dataclass(frozen=True, slots=True)
class _Draft:
    """A row before its text is encoded. `trained[k]` says whether `parts[k]` is trained; `turns` is empty for text."""

    record: Record
    disguise: Disguise
    turns: list[Turn]
    parts: list[Piece | int]
    trained: list[int]  # index of the turn a part belongs to, -1 for what is not trained
    prompt: list[Piece | int]
    eos: bool  # an end-of-sequence token was appended


@dataclass(frozen=True, slots=True)
class _Chat:
    """A conversation about to be rendered: its messages, hidden, and where the answers are among them."""

    record: Record
    disguise: Disguise
    messages: list[dict[str, str]]
    answers: list[int]

    def requests(self) -> list[Conversation]:
        """Three texts to render for each answer."""
        return [ask for at in self.answers for ask in answer_requests(self.messages, at, self.disguise.mark)]


class Renderer:
    """Renders records with one tokenizer and one template (None: plain text records only)."""

    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate | None) -> None:
        self.tokenizer = tokenizer
        self.template = template
        self._honours: bool | None = None

    def render(self, record: Record, counts: Counter[str] | None = None) -> list[Row]:
        """The rows of one record: one, or one an answer where the template rewrites earlier turns.

        Raises:
            DataError: the record cannot be rendered, or its mask cannot be proven.
            ModelError: it is a conversation, and there is no template.
        """
        (result,) = self.render_many([record], counts)
        if isinstance(result, DataError):
            raise result
        return result

    def render_many(self, records: Sequence[Record], counts: Counter[str] | None = None) -> list[list[Row] | DataError]:
        """The rows of each record, or the error that `render` would raise for it. Errors name the record's place.

        Args:
            records: some hundreds at a time keep both processes busy and memory small.
            counts: what was added to rows is counted here.
        """
        counts = Counter() if counts is None else counts
        drafts = self._drafts(records)
        whole = [draft for result in drafts if not isinstance(result, DataError) for draft in result]
        encoded = iter(self.tokenizer.encode_parts([part for draft in whole for part in draft.parts]))
        prompts = iter(self.tokenizer.encode_parts([part for draft in whole for part in draft.prompt]))
        results: list[list[Row] | DataError] = []
        for result in drafts:
            if isinstance(result, DataError):
                results.append(result)
                continue
            # All of a record's ids are taken before any check can fail: the iterators stay in step.
            material = [
                (draft, [next(encoded) for _ in draft.parts], [next(prompts) for _ in draft.prompt]) for draft in result
            ]
            try:
                results.append([self._row(draft, ids, flatten(prompt)) for draft, ids, prompt in material])
            except DataError as error:
                results.append(_placed(error, material[0][0].record))
                continue
            self._count(result, counts)
        return results

    def render_prompt(self, messages: Sequence[Message]) -> list[int]:
        """Ids of a conversation up to where the model has to answer, just as they precede an answer in training.

        Raises:
            DataError: the template refuses the messages.
            ModelError: there is no template.
        """
        template = self._need_template()
        record = Record(tuple(messages))
        disguise = self._disguise(record)
        hidden = hide_messages(record, disguise)
        text = template.render(hidden, True)
        if not self._find_honours(hidden):
            # The template writes nothing that asks for an answer: take what it would write before one.
            marked = template.render([*hidden, {"role": "assistant", "content": disguise.mark}], False)
            text = find_turn(self.tokenizer, hidden, (text, marked, marked), disguise.mark, honours=False).prompt
        return flatten(self.tokenizer.encode_parts(shown(self.tokenizer.split_rendered(text), disguise)))

    def stop_ids(self) -> frozenset[int]:
        """Ids at which generation must stop: the tokenizer's, and the one this template ends answers with."""
        if self.template is None:
            return self.tokenizer.stop_ids
        drafts = self._drafts([Record((Message("user", "Hi"), Message("assistant", "Hello")))])
        if isinstance(drafts[0], DataError):
            return self.tokenizer.stop_ids
        ends = {turn.stop_id for draft in drafts[0] for turn in draft.turns if turn.stop_id is not None}
        return self.tokenizer.stop_ids | ends

    # Records → drafts

    def _drafts(self, records: Sequence[Record]) -> list[list[_Draft] | DataError]:
        """Everything up to the encoding: one round trip to the template for all records."""
        results: list[list[_Draft] | DataError] = [[] for _ in records]
        chats: list[tuple[int, _Chat]] = []
        for index, record in enumerate(records):
            try:
                if record.messages:
                    chats.append((index, self._chat(record)))
                else:
                    results[index] = [self._text_draft(record)]
            except DataError as error:
                results[index] = _placed(error, record)
        if not chats:
            return results
        requests = [request for _, chat in chats for request in chat.requests()]
        answers = iter(self._need_template().render_many(requests))
        for index, chat in chats:
            texts = [next(answers) for _ in chat.requests()]
            try:
                results[index] = self._chat_drafts(chat, texts)
            except DataError as error:
                results[index] = _placed(error, chat.record)
        return results

    def _chat(self, record: Record) -> _Chat:
        disguise = self._disguise(record)
        messages = hide_messages(record, disguise)
        answers = [at for at, message in enumerate(messages) if message["role"] == "assistant"]
        if not answers:
            raise DataError("no assistant message, so there is nothing to train on")
        self._find_honours(messages[: answers[0]])
        return _Chat(record, disguise, messages, answers)

    def _chat_drafts(self, chat: _Chat, rendered: list[str | DataError]) -> list[_Draft]:
        """One draft a row. `rendered` answers `chat.requests()`."""
        texts = []
        for text in rendered:
            if isinstance(text, DataError):
                raise text
            texts.append(text)
        mark, honours = chat.disguise.mark, bool(self._honours)
        turns = [
            find_turn(self.tokenizer, chat.messages[:at], texts[3 * number :][:3], mark, honours=honours)
            for number, at in enumerate(chat.answers)
        ]
        return [self._chat_draft(chat.record, chat.disguise, group) for group in group_turns(turns)]

    def _chat_draft(self, record: Record, disguise: Disguise, turns: list[Turn]) -> _Draft:
        """Cuts the newest view at the edges of its regions. Without a stop token, the row ends with eos."""
        newest = turns[-1]
        view = newest.view if newest.stop_id is not None else newest.view[: newest.end]
        starts = {turn.start: number for number, turn in enumerate(turns)}
        edges = sorted({0, len(view), *starts, *(turn.end for turn in turns)})
        parts: list[Piece | int] = []
        trained: list[int] = []
        place = Place.START
        for start, end in pairwise(edges):
            new = self.tokenizer.split_rendered(view[start:end], place)
            parts += new
            trained += [starts.get(start, -1)] * len(new)
            if new:
                place = Place.TEXT if isinstance(new[-1], Piece) else Place.SPECIAL
        if newest.stop_id is None:
            parts.append(self.tokenizer.eos_id)
            trained.append(len(turns) - 1)
        prompt = self.tokenizer.split_rendered(turns[0].prompt)
        return _Draft(
            record, disguise, turns, shown(parts, disguise), trained, shown(prompt, disguise), newest.stop_id is None
        )

    def _text_draft(self, record: Record) -> _Draft:
        """Plain text: bos if the tokenizer starts texts with it, the text, eos."""
        if not record.text:
            raise DataError("an empty text")
        disguise = self._disguise(record)
        bos = [self.tokenizer.bos_id] if self.tokenizer.adds_bos and self.tokenizer.bos_id is not None else []
        parts: list[Piece | int] = [*bos, Piece(record.text, Place.START), self.tokenizer.eos_id]
        return _Draft(record, disguise, [], parts, [0] * len(parts), [], True)

    def _disguise(self, record: Record) -> Disguise:
        texts = [record.text, *(message.content for message in record.messages)]
        for text in texts:
            check_text(text)
        return Disguise(self.tokenizer, texts, self.template.source if self.template else "")

    def _need_template(self) -> ChatTemplate:
        if self.template is None:
            raise missing_template(self.tokenizer)
        return self.template

    def _find_honours(self, before: list[dict[str, str]]) -> bool:
        """Whether add_generation_prompt makes a difference. A fact about the template, found once."""
        if self._honours is None:
            with_prompt, without = self._need_template().render_many([(before, True), (before, False)])
            if isinstance(with_prompt, DataError) or isinstance(without, DataError):
                return False  # the conversation is at fault and its own rendering will say so
            self._honours = with_prompt != without
        return self._honours

    # Drafts → rows

    def _row(self, draft: _Draft, ids: list[list[int]], prompt: list[int]) -> Row:
        row_ids = np.array(flatten(ids), dtype=np.int32)
        lengths = [len(part) for part in ids]
        turn_of = np.repeat(np.array(draft.trained, dtype=np.int64), lengths)  # (T,)
        if draft.turns:
            prove(self.tokenizer, draft.disguise, draft.turns, draft.eos, prompt, row_ids, turn_of)
        mask = turn_of >= 0
        mask[:1] = False  # nothing comes before the first token, so nothing can predict it
        record = draft.record
        return Row(row_ids, mask, record.id, record.group or record.id, record.where)

    def _count(self, drafts: list[_Draft], counts: Counter[str]) -> None:
        turns = [turn for draft in drafts for turn in draft.turns]
        eos = self.tokenizer.eos_token
        found = {
            SPLIT: len(drafts) - 1,
            UNASKED: sum(not turn.asked for turn in turns),
            MOVED: sum(turn.moved for turn in turns),
            NO_STOP.format(eos=eos): sum(draft.eos and bool(draft.turns) for draft in drafts),
            TEXT_END.format(eos=eos): sum(draft.eos and not draft.turns for draft in drafts),
        }
        counts.update({reason: number for reason, number in found.items() if number})


def _placed(error: DataError, record: Record) -> DataError:
    return DataError(error.what, where=error.where or record.where, fix=error.fix)
