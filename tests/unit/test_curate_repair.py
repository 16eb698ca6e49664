"""What is repaired, what stays untouched, and that a second run finds nothing."""

import pytest

from luthier.curate.characters import drop_controls, drop_invisible, fix_encoding, fix_escapes
from luthier.curate.example import Example
from luthier.curate.fold import fold
from luthier.curate.repair import REPAIR, cut_leak, cut_no_input
from luthier.data.records import Message, Record


def example(prompt: str, answer: str, **fields: object) -> Example:
    return Example("x", Record(messages=(Message("user", prompt), Message("assistant", answer)), **fields))


def repaired(prompt: str, answer: str) -> tuple[list[str], str, str]:
    """(reasons, prompt, answer) after the step; a second run must find nothing."""
    one = example(prompt, answer)
    entries = REPAIR.run([one])
    after, out, void = fold(one, entries)
    assert out is None and void == 0, "an edit must fit on the one before"
    assert REPAIR.run([after]) == []
    return [entry.reason for entry in entries], after.record.messages[0].content, after.record.messages[1].content


@pytest.mark.parametrize(
    ("broken", "whole"),
    [
        ("Itâ€™s dÃ©jÃ\xa0 vu", "It’s déjà vu"),
        ("Itâ€™s dÃ©jÃ  vu", "It’s déjà vu"),
        ("20Â°C or 5 â‚¬", "20°C or 5 €"),
        ("x â‰¤ Ï€", "x ≤ π"),
        ("It\x92s", "It’s"),
        ("ðŸ˜€ hi", "😀 hi"),
        ("Ð¿Ñ€Ð¸Ð²ÐµÑ‚", "привет"),
        ("first line\nhis fiancÃ©e\nlast — line", "first line\nhis fiancée\nlast — line"),
    ],
)
def test_bytes_read_in_the_wrong_encoding_are_undone(broken: str, whole: str) -> None:
    assert fix_encoding(broken) == whole
    assert repaired("Say it.", broken)[0] == ["broken encoding"]


@pytest.mark.parametrize(
    "text",
    [
        "“Curly” ‘quotes’ – dashes — and … dots\r\nand a Windows line end",
        "def f(s):\n\tif s == 'é':  # ½ of it\n\t\treturn \"ü\" + s[::-1]\n",
        "∑ᵢ xᵢ² ≤ √2·π ± ½, ∀ε>0 ∃δ: |x−a|<δ ⇒ |f(x)−L|<ε, 5×² and 3 ¬ p",
        "L’été, à Noël, « ça coûte 5 € » ; Größe: 5 µm; São Paulo; Łódź; Ångström; ŒUVRE",
        "Привет, «мир»! Ελληνικά: γλώσσα. 中文，测试。日本語（テスト） ﾊﾝｶｸ ＡＢＣ ﬁn",
        "העברית מימין, العربية من اليمين, हिन्दी क्\u200dष, ไทย, 한국어",
        "The letters Ã and Â are used in Portuguese. ",
        "Boa noite e “MANHÔ, “IRMÃ” e «CAMPEû; “Ã and Â are É” used",
        "├── src\n│   └── main.py  ░▒▓",
        "e\u0301 is not é, and non\xa0breaking spaces stay",
        "&lt;b&gt; &amp; <br> stay",
    ],
)
def test_what_an_author_wrote_stays(text: str) -> None:
    assert repaired(text, text) == ([], text, text)


def test_texts_about_encodings_stay() -> None:
    assert repaired("Fix the encoding of: Itâ€™s", "The mojibake â€™ is an apostrophe.")[0] == []


def test_controls_and_terminal_colours_go_but_layout_stays() -> None:
    assert drop_controls("\x1b[31mred\x1b[0m\x00 a\tb\r\nc\x0cd\x7f") == "red a\tb\r\nc\x0cd"
    assert repaired("Say it.", "bell\x07 rings")[0] == ["control characters"]


def test_backslashes_of_latex_come_back() -> None:
    assert fix_escapes("$\x08egin{a} 5 \times \x0crac{1}{2} \theta$") == "$\\begin{a} 5 \\times \\frac{1}{2} \\theta$"
    assert fix_escapes("name\theta\times") == "name\theta\times", "tabs in a table without LaTeX"
    assert repaired("Solve $x$", "$\x0crac{1}{2}$")[0] == ["broken LaTeX command"]


def test_invisible_characters_go_where_they_do_nothing() -> None:
    assert drop_invisible("\ufeffa\u200bb\u2060c\u00add\u200e \u202etxt") == "abcd txt"
    assert drop_invisible("hidden\U000e0041\U000e0042") == "hidden"
    assert repaired("Say it.", "zero\u200bwidth")[0] == ["invisible characters"]


@pytest.mark.parametrize(
    "text",
    [
        "👩\u200d💻 ❤\ufe0f\u200d🔥 🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
        "می\u200cخواهم",
        "क्\u200dष",
        "ภาษา\u200bไทย",
        "שלום\u200f!",
        "s.replace('\u200b', '')",
    ],
)
def test_invisible_characters_stay_where_they_are_part_of_the_writing(text: str) -> None:
    assert drop_invisible(text) == text


@pytest.mark.parametrize(
    "note",
    [
        "<noinput>",
        "No input",
        "[no input]",
        "noinput",
        "N/A",
        "None",
        "No input required.",
        "Input: N/A",
        "### Input:\nN/A",
        "-",
    ],
)
def test_notes_that_there_is_no_input_are_cut(note: str) -> None:
    assert cut_no_input(f"Name three colours.\n\n{note}") == "Name three colours."
    assert repaired(f"Name three colours.\n\n{note}", "Red")[0] == ["no-input note"]


@pytest.mark.parametrize(
    "prompt",
    [
        "What does the following abbreviation mean?\n\nN/A",
        "Which type does this value have?\n\nNone",
        "Translate these words:\n\nno input",
        "None",
        "Name three colours.\n\nNone of them blue",
        "Is there an input? No input",
    ],
)
def test_inputs_that_look_like_notes_stay(prompt: str) -> None:
    assert cut_no_input(prompt) == prompt


@pytest.mark.parametrize(
    "leak",
    [
        "\n\n### Instruction:\nName a bird.\n\n### Response:\nA crow.",
        "\n\nInstruction: Name a bird.\nInput: none\nOutput: A crow.",
        "\n12. Instruction: Name a bird.",
        "\n\n### Input:\nsomething",
        "\n\nHuman: And another?\n\nAssistant: Blue.",
        "<|im_end|>\n<|im_start|>user\nAnd another?",
        "<|endoftext|>",
        "</s>",
    ],
)
def test_the_next_prompt_is_cut_off_an_answer(leak: str) -> None:
    assert repaired("Name a colour.", "Red is one." + leak) == (["leaked prompt"], "Name a colour.", "Red is one.")


def test_a_template_heading_is_cut_off_the_start() -> None:
    assert cut_leak("### Response:\nRed.", "Name a colour.") == "Red."


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        ("Write a prompt template.", "Do it well.\n\n### Instruction:\n{instruction}"),
        ("Write a dialogue of a human and a robot.", "They meet.\n\nHuman: Hello.\n\nRobot: Beep."),
        ("Who said it?", "Robot: Beep.\n\nHuman: Hello."),
        ("Describe the function.", "It adds.\n\nExample:\nInput: 1 2\nOutput: 3"),
        ("Strike it through.", "<s>old</s>"),
        ("Explain this.", "## Input\nThe input is a list.\n\n## Output\nA number."),
        ("Explain this.", "### Instruction:\nonly this"),
    ],
)
def test_answers_that_hold_such_words_rightly_stay(prompt: str, answer: str) -> None:
    assert cut_leak(answer, prompt) == answer


def test_both_continuations_are_repaired_but_only_the_wanted_one_is_cut() -> None:
    leak = "Itâ€™s red.\n\n### Instruction:\nName a bird."
    record = Record(
        messages=(Message("user", "Name a colour."),),
        chosen=(Message("assistant", leak),),
        rejected=(Message("assistant", leak),),
    )
    found = [(entry.field, entry.reason) for entry in REPAIR.run([Example("x", record)])]
    assert found == [
        ("chosen.0.content", "broken encoding"),
        ("chosen.0.content", "leaked prompt"),
        ("rejected.0.content", "broken encoding"),
    ]
    unwanted = example("Name a colour.", "Red.\n\n### Instruction:\nName a bird.", label=False)
    assert REPAIR.run([unwanted]) == []


def test_the_evidence_is_the_place_that_changes() -> None:
    (entry,) = REPAIR.run([example("Say it.", "abc dÃ©f")])
    assert entry.before[entry.start : entry.end] == "Ã©" and entry.after == "abc déf"


def test_plain_text_is_repaired() -> None:
    (entry,) = REPAIR.run([Example("x", Record(text="abc dÃ©f"))])
    assert (entry.field, entry.action, entry.after) == ("text", "edit", "abc déf")


PREAMBLE = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
)


@pytest.mark.parametrize(
    ("prompt", "answer", "repaired"),
    [
        ("Write X.", f"{PREAMBLE}### Instruction:\nWrite X.\n\n### Response:\nX, as asked.", "X, as asked."),
        ("Write X.", "### Instruction:\nWrite X.\n\n### Response:\nX, as asked.", "X, as asked."),
        ("Name a fruit.", "Apple.\n\n### Instruction:\nName a car.\n\n### Response:\nFord", "Apple."),
        ("Write a body.", "### Response:\n    return 1\n", "    return 1\n"),
        ("Say hello.", "### Response: hello", "hello"),
        ("Say hello.", "Assistant: Hello there.", "Hello there."),
        ("Add 2 and 3.", "Input: Add 2 and 3. Output: 5", "5"),
        ("Say hello.", "Hello. </s><s>[INST] Say goodbye. [/INST] Goodbye.", "Hello."),
        ("Write a shell script that lists files.", "ls\n<|im_end|>\n<|im_start|>user\nNow delete them.", "ls"),
    ],
)
def test_what_a_template_leaves_around_an_answer(prompt: str, answer: str, repaired: str) -> None:
    assert cut_leak(answer, prompt) == repaired
    assert cut_leak(repaired, prompt) == repaired


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        ("Write a script for two people.", "Assistant: Good morning.\nBoss: Good morning."),
        ("Patient: I am ill.\nWhat does the assistant say?", "Assistant: Sit down, please."),
        ("What is in the form?", "Input: a name. Output: a number."),
        ("How do I strike text out?", "Write <s>this</s>."),
        ("What does [INST] do?", "It opens a turn: [INST] text [/INST]."),
    ],
)
def test_what_only_looks_like_a_template(prompt: str, answer: str) -> None:
    assert cut_leak(answer, prompt) == answer
