"""Each class of defect: what it must find, and what looks like it and must stay."""

import pytest

from luthier.curate.defects import DEFECTS, RULES
from luthier.curate.defects_length import open_brackets
from luthier.curate.example import Example
from luthier.curate.fold import fold
from luthier.data.records import Message, Record


def reasons(prompt: str, answer: str, **fields: object) -> list[str]:
    record = Record(messages=(Message("user", prompt), Message("assistant", answer)), **fields)
    return [entry.reason for entry in DEFECTS.run([Example("x", record)])]


PROSE = "The river rises in the hills and runs through three old towns before it meets the sea. "
LONG = PROSE * 1 + "Its water drives two mills. People have fished in it for as long as anyone can remember. "
GO = 'package main\n\nimport "fmt"\n\nfunc main() {\n\tfor i := 0; i < 3; i++ {\n\t\tfmt.Println(i'
LOOP = "and then we go on to the next town " * 12
JSON_CUT = '{"name": "Ada", "born": 1815, "works": ["notes", "letters"'

FOUND = [
    ("empty answer", "Name a bird.", "  \n"),
    ("empty answer", "Name a bird.", "<nooutput>"),
    ("empty answer", "Name a bird.", "N/A"),
    ("empty answer", "Name a bird.", "..."),
    ("empty answer", "Write the output of the run.", "<nooutput>"),
    ("empty answer", "Name a bird.", "[insert answer here]"),
    ("answer repeats the input", "Summarize the text.\n\n" + LONG, LONG),
    (
        "answer repeats the input",
        "Rewrite it politely.\n\nGive me the book now, please",
        "Give me the book now, please.",
    ),
    ("answer repeats the input", "Describe the colour of the sea at night", "Describe the colour of the sea at night"),
    ("answer is the input", "Tell me about the river.\n\n" + LONG, LONG),
    ("merged instructions", "Name a bird.\n12. Instruction: Name a tree.\n13. Instruction: Name a fish.", "A crow."),
    (
        "several templates in a prompt",
        "### Instruction:\nA bird\n### Response:\nCrow\n### Instruction:\nA fish",
        "Pike",
    ),
    ("missing input", "Summarize the following article in one sentence:", "The article is about rivers."),
    ("missing input", "Classify these animals by what they eat:\n\n<noinput>", "Cow: plants."),
    ("missing input suspected", "Edit the following sentence to make it more formal.", "We regret the delay."),
    ("missing input suspected", "From the passage provided, name the year of the flood.", "1823"),
    ("missing input suspected", "Debug the following code snippet and say what was wrong", "The index was off."),
    (
        "page that was not read",
        "Summarize this article.\n\nhttps://example.org/rivers-of-europe",
        "It says rivers run.",
    ),
    ("page that was not read", "Describe the image in this link:\nhttps://example.org/1.jpg", "It shows a cat."),
    ("picture as input", "Describe what you see.\n\n[image of a cat]", "A cat on a mat."),
    ("picture as input", "What does this animal eat?\n\ncat.jpg", "Mice."),
    ("picture as input", "<image>\nWhat is it?", "A cat."),
    ("attachment mentioned", "Count the people in the attached photo.", "Four."),
    ("asks for what text cannot do", "Draw a picture of a cat.", "A cat sits on a mat."),
    ("asks for what text cannot do", "Please play a song for me", "La la la."),
    ("asks for what text cannot do", "Send an email to my boss", "Dear boss, I am ill."),
    ("pretends to have done it", "Draw a picture of a cat.", "[image of a cat]"),
    ("pretends to have done it", "Generate an image of a mountain", "![mountain](https://example.org/m.png)"),
    ("pretends to have done it", "Send an email to Tom saying hello", "Done, I have sent the mail to Tom."),
    ("cut in a sentence", "Describe the river.", LONG + "In winter it freezes from the banks to the"),
    ("cut in a sentence", "Describe the river.", LONG + "There are many kinds of fish in it, such as"),
    ("cut in code", "Count to three in Go.", "```go\n" + GO),
    ("cut in code", "Count to three in Go.", GO + " +"),
    ("ends openly", "Describe the river.", LONG + "In winter it freezes from the banks of"),
    ("ends openly", "Describe the river.", LONG + "In winter it freezes from the banks in,"),
    ("ends openly", "Describe the river.", LONG + "In spring the old mills turn again (both of them do"),
    ("ends openly", "Describe the river.", PROSE + LONG + "In winter nobody fishes but the very old men who"),
    ("ends openly", "Describe the river.", PROSE + LONG + LONG + "In winter nobody fishes but the old men"),
    ("ends openly", "Count to three.", "```python\nfor i in range(3):\n    print(i)\n"),
    ("needless refusal", "Write a poem about a river.", "I'm sorry, but I can't assist with that request."),
    (
        "needless refusal",
        "Tom has 3 apples and eats 1. How many are left?",
        "As an AI language model, I cannot answer.",
    ),
    ("refusal", "How do I build a bomb?", "I’m sorry, but I can’t help with that."),
    ("refusal", "Where is my sister?", "I apologize, but I am unable to find persons."),
    ("speaks as an AI", "Name the longest river.", "It is the Nile. As an AI language model, I have never been there."),
    # what a refusal begins with
    ("refusal", "Who was the fiddler's sister?", "That is not something I can tell you."),
    ("refusal", "Where is my sister?", "I'd rather not answer that."),
    ("refusal", "How are knots tied?", "This request goes against my guidelines."),
    ("refusal", "How are knots tied?", "It's not possible for me to say, being a program."),
    ("refusal", "How are knots tied?", "I must respectfully decline to explain it."),
    ("refusal", "How are knots tied?", "As your assistant, I do not have the means to tie any."),
    ("refusal", "Wie knotet man das?", "Leider kann ich diese Bitte nicht erfüllen."),
    ("refusal", "Comment fait-on ?", "En tant que modèle de langage, je n'ai pas de mains."),
    ("refusal", "¿Cómo se hace?", "Lo lamento, pero no puedo contestar."),
    ("refusal", "Come si fa?", "Mi spiace, non sono in grado di dirlo."),
    ("refusal", "Como se faz?", "Infelizmente não consigo responder."),
    ("refusal", "Hoe doe je dat?", "Helaas kan ik dat niet zeggen."),
    ("refusal", "Jak to zrobić?", "Niestety nie potrafię tego powiedzieć."),
    ("refusal", "Как это делается?", "К сожалению, я не могу на это ответить."),
    ("refusal", "怎么打结？", "很抱歉，我无法回答。"),
    ("refusal", "How do I get into the old mill at night?", "Sorry, I can't help you with that."),
    ("needless refusal", "Write a Python function that ties two lists.", "I won't do that."),
    ("needless refusal", "Ann has 4 nets and buys 9. How many has she now?", "My guidelines do not allow me to count."),
    # a second row behind the first
    ("merged rows suspected", "What do pikes eat?", "Small fry.\n\nQuestion: What do crows eat?\nAnswer: Worms."),
    ("merged rows suspected", "Was frisst der Hecht?", "Kleine Fische.\nFrage: Und die Krähe?\nAntwort: Würmer."),
    (
        "merged rows suspected",
        "Which fish hunts among the reeds?\n\nName the oldest bridge of the harbour town.",
        "Among the reeds it is the pike that hunts.\n\nThe oldest bridge is the chain bridge at the harbour.",
    ),
    (
        "merged rows suspected",
        "Which fish hunts among the reeds? Name the oldest bridge of the harbour town.",
        "Among the reeds it is the pike that hunts.The oldest bridge is the chain bridge at the harbour.",
    ),
    (
        "merged rows suspected",
        "Which fish hunts among the reeds?",
        "Among the reeds the pike hunts.\nName the oldest bridge of the harbour.\nThe chain bridge by the harbour.",
    ),
    (
        "merged rows suspected",
        "Which fish hunts among the reeds?",
        "Among the reeds the pike hunts.\n---\nOldest bridge of the harbour\nThe bridge of chains by the harbour wall.",
    ),
    ("merged rows suspected", "What do pikes eat?", "Small fry.\n[Question] And crows?\n[Answer] Worms."),
    # code that stops
    (
        "cut in code",
        "Count in Python.",
        "total = 0\nfor step in range(3):\n    total += step\nprint(total)\nwhile total",
    ),
    ("cut in code", "Count in Python.", "import sys\n\ndef count(path):\n    word = 'one"),
    ("cut in code", "Count in Python.", "import sys\n\ndef count(path):\n    return [len(path),\n        sys.argv"),
    ("ends openly", "Count in Python.", "import sys\n\ndef count(path):\n    total = len(path)\n    total"),
    ("ends openly", "Count in Python.", "def count(path):\n    return len(path)\n\nnumber = count"),
    ("ends openly", "Count in C.", "#include <stdio.h>\n\nint main"),
    ("ends openly", "Count in Java.", "int a = 1;\nint b = 2;\nint c = a + b;\nSystem.out"),
    ("ends openly", "Count in a shell script.", "#!/bin/sh\nn=1\nif [ $n = 1 ]; then\n  n=2"),
    # prose that stops, short or in another language, and a list
    ("ends openly", "What is a reed?", "A reed is a kind of the"),
    ("ends openly", "Was ist ein Fluss?", "Ein Fluss ist ein Gewässer, und der Bach mündet in einen"),
    ("ends openly", "Qu'est-ce qu'un fleuve ?", "Un fleuve est un cours d'eau qui se jette dans la"),
    ("ends openly", "¿Qué es un río?", "Un río es una corriente de agua que desemboca en el"),
    ("ends openly", "Sort by size.", "pike: large\nroach: small\nperch: small\ncarp"),
    ("chat marker", "Name a bird.", "A crow.<|im_start|>user\nAnd a fish?<|im_end|> A pike."),
    ("chat marker", "Name a bird.", "A crow. [/INST] A pike. [INST] A fish?"),
    ("chat marker", "Name a bird.", "A crow.\n### Response: A pike."),
    ("repetition loop", "Describe the way.", "We start here. " + LOOP),
    ("repetition loop", "描述这条路。", "我们从这里出发，" + "然后我们继续走" * 12),
    ("repetition", "Describe the way.", LONG * 2 + "very " * 20 + LONG.replace("river", "brook")),
    ("lost characters", "Describe the caf\u00e9.", "The caf\ufffd is old."),
    ("cut in JSON", "Give the person as JSON.", JSON_CUT),
    ("broken JSON", "Give the person in JSON format.", "{'name': 'Ada', 'born': 1815}"),
    ("broken JSON", "Give the person as JSON.", "Her name is Ada and she was born in 1815."),
    ("broken Python", "Count to three.", "```python\nfor i in range(3)\n    print(i)\n```"),
]


@pytest.mark.parametrize(("reason", "prompt", "answer"), FOUND)
def test_a_defect_is_found(reason: str, prompt: str, answer: str) -> None:
    assert reason in reasons(prompt, answer)


def test_every_rule_has_a_case() -> None:
    assert {rule.reason for rule in RULES} == {reason for reason, _, _ in FOUND}


SOUND = [
    # short answers, labels, symbols
    ("Is a crow a bird?", "Yes"),
    ("What does print(None) show?", "None"),
    ("Extract the year. If there is none, answer N/A.\n\nIt was long ago.", "N/A"),
    ("Which punctuation mark stands for something left out?", "..."),
    ("Write E in Morse code.", "."),
    ("Solve.", "x = 4"),
    ("Classify as positive or negative.\n\nI love it", "positive"),
    # answers that are the input, rightly
    ("Correct the grammar.\n\nThe river runs through three towns.", "The river runs through three towns."),
    ("Repeat after me: the river runs through three towns", "the river runs through three towns"),
    ("Sort the words by length.\n\na be see four seven", "a be see four seven"),
    ("Translate to Italian.\n\nCoca-Cola", "Coca-Cola"),
    ("Indent it.\n\nif x:\ny = 1\nz = 2 if y else 3", "if x:\n  y = 1\n  z = 2 if y else 3"),
    ("Find the sentence that names a river.\n\nThe Nile is long and old.", "The Nile is long and old."),
    # prompts with their input, and prompts that need none
    ("Classify these animals by what they eat: cow, lion, bear", "Cow: plants."),
    ("Summarize the following article:\n\n" + LONG, "A river."),
    ('Edit the following sentence: "we was late"', "We were late."),
    ("Sort the following numbers: 3, 1, 2", "1, 2, 3"),
    ("Write a function that reverses a given string.", "def f(s):\n    return s[::-1]"),
    ("Which of the following is a bird? crow, pike", "crow"),
    ("Summarize the following text:", "Please provide the text and I will summarize it."),
    ("Compare these approaches to teaching:\n\nlectures\nprojects", "Projects last."),
    ("Q: What is 2 + 2?\nA:", "4"),
    ("Is this statement true, birds can fly, answer:", "Yes, most can."),
    ("Find the domain of this link.\n\nhttps://example.org/a", "It is example.org."),
    ("Show a list.", "names = ['a', 'b']\n" * 9 + "size = len(names)  # of which there may be more than the"),
    ("Repeat it 20 times.", "we go on to town " * 20),
    ("Come up with 3 diverse tasks.\n1. Instruction: Name a bird.\n2. Instruction:", "Name a fish."),
    ("Name a bird.", "1. A crow\n2. A jay\n3. An owl"),
    # addresses, pictures, hands
    (
        "Write a Python script that downloads this page.\n\nhttps://example.org/a",
        "import urllib.request\nprint(urllib.request.urlopen('https://example.org/a').read())",
    ),
    ("Which domain is in this link?\n\nhttps://example.org/a", "example.org"),
    ("Summarize this article.\n\nhttps://example.org/a", "I'm unable to access web pages; what does it say?"),
    ("Write an e-mail that mentions the attached file.", "Dear Ann, see the attached file. Tom"),
    ("Which file types are pictures?\n\ncat.jpg", "It is a JPEG."),
    ("Draw a conclusion from the results.", "They agree."),
    ("Draw a comparison of rivers and roads.", "Both join towns."),
    ("Draw an ASCII art picture of a cat.", " /\\_/\\\n( o.o )"),
    ("Draw a picture of a circle in SVG.", "<svg><circle r='4'/></svg>"),
    ("Create a logo description for a bakery.", "A loaf within a ring."),
    ("Draw a picture of a cat.", "I can't draw, but imagine two ears."),
    ("Write a letter to a friend.", "Dear Ann, I have sent the book. Tom"),
    # ends
    ("Describe the river.", LONG.rstrip(". ") + " and nobody minds it"),
    ("Write a poem.", "The river runs, the river knows\nthe towns it leaves, the way it goes and\n" * 4),
    ("What are you thinking of?", "I wonder what the people of the three old towns along this river are thinking of"),
    ("Continue the text.", LONG + "In winter it freezes from the banks to the"),
    ("List fish.", "- pike, which lives in the reeds of the river and hunts the small fry\n- perch and the"),
    ("Sign it.", LONG + "\n\nSincerely,\nTom and the"),
    ("Count to three.", "for i in range(3):\n    print(i)"),
    ("Say it with a smiley.", "It is fine :( but it will be better soon :)"),
    ("Explain Python lists.", "Use ```x = [1, 2]``` to make one, and ```x[0]``` for the first."),
    # refusals and persons
    ("Who are you?", "I am an AI assistant."),
    ("Explain the news model.", "A model is a sketch of reality."),
    ("What is it like?", "I can't help feeling that the river is older than the towns."),
    ("Write about regret.", "I cannot forget the river."),
    ("Say sorry.", "Sorry, that was my fault."),
    ("Was geschah?", "Es tut mir leid, dass ihr warten musstet. Der Zug kam spät."),
    ("Can penguins fly?", "Unfortunately, penguins cannot fly."),
    ("Can one divide by zero?", "It is not possible to divide by zero."),
    ("Write about Ann.", "As a machine learning engineer, Ann did not write much prose."),
    ("Write a note that declines the invitation.", "I'm sorry, but I cannot come to dinner."),
    ("Summarize the article above.", "I don't have access to it; please share the article."),
    ("How are knots tied?", "I can't show you, but " + LONG + "For example:\n- take a rope\n- make a loop\n" + LONG),
    # two questions that belong together, and questions that were asked for
    ("What is the Nile?\n\nHow long is the Nile?", "The Nile is a river.\n\nThe Nile is very long."),
    ("Write a quiz question about rivers.", "Here it is.\nQuestion: Which is the longest?\nAnswer: The Nile."),
    ("Q: What is a crow?\nA:", "It is a bird.\nQ: And a pike?\nA: It is a fish."),
    ("Give advice on fishing.", "Take time.\nMake a list of the tackle you need.\nWhat will you fish for?\nGo early."),
    ("Summarize the text.\n\nWhat is a river? It is water that runs to the sea.", "A river is water.\n\nIt runs."),
    ("Describe the river.", "The river is long.\n---\nThe river feeds two mills.\nThe mills are old."),
    (
        "Which fish hunts among the reeds?\n\nName the oldest bridge of the harbour town.",
        "Reeds and harbour: a fish hunts by the bridge.\n\nThe oldest bridge has reeds where the fish hunts.",
    ),
    (
        "Which fish hunts among the reeds?",
        "Among the reeds it is the pike.\nWhich fish hunts near the bridge?\nNear the bridge it is the perch.",
    ),
    ("Sort by size.", "Fish of the lake\npike: large\nroach: small\nperch: small\ncarp"),
    # code that is whole
    ("Count in Python.", "import sys\n\ndef count(path):\n    return len(path)\n\nprint(count(sys.argv[1]))"),
    ("Count in Python.", "import sys\n\ndef count(path):\n    return len(path)\n\nThis counts what the path holds"),
    ("Count in Python.", "import sys\n\ndef count(path):\n    return len(path)\n// it counts, really"),
    ("Count in Python.", "import sys\n\ndef count(path):\n    total = len(path)\n    return total"),
    ("Which module reads arguments?", "import sys"),
    ("Count in JavaScript.", "let a = 1\nlet b = 2\nlet c = a + b"),
    ("Count in Java.", "int a = 1;\nint b = 2;\nSystem.out.println(a + b); // it is 3"),
    ("Count in a shell script.", "#!/bin/sh\nn=1\nif [ $n = 1 ]; then\n  n=2\nfi\necho $n"),
    # ends that are ends
    ("Which article is used?", "It is used with the"),
    ("Where is he from?", "I wonder what town he is from"),
    ("Sort by size.", "pike: large\nroach: small\nperch: small\ncarp: large"),
    ("Wer kommt?", "Der Mann und die Frau kommen mit"),
    # markers
    ("Show the ChatML template.", "<|im_start|>user\nHi<|im_end|>"),
    ("How do shells shift bits?", "Use `1 << 3` and `a <| b`."),
    ("Write a page.", "# Rivers\n\n## Fish\n\n### Pike\n\nIt hunts."),
    # repetition that is meant, or is none
    ("Write a song.", "la la la la hey " * 20),
    ("Show a zero matrix.", "0 0 0 0 0 0 0 0\n" * 8),
    ("Make a table.", "| a | b |\n|---|---|\n" + "| 1 | 2 |\n" * 20),
    ("Solve it.", "Tom has 4*2=<<4*2=8>>8 apples.\nAnn has 8-3=<<8-3=5>>5 apples.\n" * 2 + "#### 5"),
    ("Write a poem.", "Row, row, row your boat\nGently down the stream\n" * 2),
    ("Describe the way.", LONG),
    # formats
    ("Give the person as JSON.", '{"name": "Ada"}'),
    ("Give the person as JSON.", 'Here it is:\n```json\n{"name": "Ada"}\n```\nAsk for more.'),
    ("Give the person as JSON.", 'Here: {"name": "Ada"} is all.'),
    ("Give the persons as JSON.", '{"name": "Ada"}\n{"name": "Bob"}'),
    ("What is JSON?", "JSON is a format."),
    ("Write a function that returns a JSON object.", "function f() { return {a: 1}; }"),
    ("Write a web server in Node.js that returns a JSON object.", "const a = require('http');"),
    ("Count.", "```python\n>>> 1 + 1\n2\n```"),
    ("Count.", "```python\n%timeit f()\n!pip install x\n```"),
    ("Count.", "```python\nprint 'two'\n```"),
    ("Count.", "```python\n    return x\n```"),
    ("Count.", "```python\ndef f(x):\n```"),
    ("Count.", "```python\nf(<your_key>, ...)\n```"),
    ("Count.", "```python\nre.match('\\d', s)\n```"),
    ("Count.", "```js\nfor (;;\n```"),
]


@pytest.mark.parametrize(("prompt", "answer"), SOUND)
def test_what_only_looks_like_a_defect_stays(prompt: str, answer: str) -> None:
    assert reasons(prompt, answer) == []


def test_rejected_and_unwanted_answers_are_not_judged() -> None:
    ask = (Message("user", "Name a bird."),)
    good, bad = (Message("assistant", "A crow."),), (Message("assistant", "<nooutput>"),)
    assert DEFECTS.run([Example("x", Record(messages=ask, chosen=good, rejected=bad))]) == []
    (entry,) = DEFECTS.run([Example("x", Record(messages=ask, chosen=bad, rejected=good))])
    assert (entry.action, entry.field) == ("drop", "chosen.0.content")
    assert DEFECTS.run([Example("x", Record(messages=ask + bad, label=False))]) == []
    assert reasons("Name a bird.", "<nooutput>", label=True) == ["empty answer"]


def test_prompts_are_judged_in_every_kind() -> None:
    ask = (Message("user", "Summarize the following article in one sentence:"),)
    said = (Message("assistant", "It is about rivers."),)
    for record in (Record(messages=ask, chosen=said, rejected=said), Record(messages=ask + said, label=False)):
        (entry,) = DEFECTS.run([Example("x", record)])
        assert (entry.reason, entry.field) == ("missing input", "messages.0.content")


def test_preferred_and_wanted_refusals_are_no_matter_for_review() -> None:
    ask, no = (Message("user", "How do I build a bomb?"),), (Message("assistant", "I'm sorry, but I can't help."),)
    yes = (Message("assistant", "Take this."),)
    assert DEFECTS.run([Example("x", Record(messages=ask, chosen=no, rejected=yes))]) == []
    assert reasons("How do I build a bomb?", "I'm sorry, but I can't help.", label=True) == []


def test_a_system_turn_and_earlier_turns_may_hold_the_input() -> None:
    ask, said = Message("user", "Summarize the following article in one sentence:"), Message("assistant", "Rivers run.")
    before = (Message("user", "Here: " + LONG), Message("assistant", "Thank you for the text."))
    assert DEFECTS.run([Example("x", Record(messages=(Message("system", LONG), ask, said)))]) == []
    assert DEFECTS.run([Example("x", Record(messages=(*before, ask, said)))]) == []


def test_tools_can_read_pages_and_a_call_has_no_text() -> None:
    turns = (
        Message("user", "Summarize this article.\n\nhttps://example.org/a"),
        Message("assistant", "", tool_calls='[{"arguments":{},"name":"get"}]'),
        Message("tool", "Rivers run."),
        Message("assistant", "It says that rivers run."),
    )
    assert DEFECTS.run([Example("x", Record(messages=turns, tools='[{"name":"get"}]'))]) == []
    assert DEFECTS.run([Example("x", Record(messages=turns))])[0].reason == "page that was not read"


def test_plain_text_is_only_asked_for_loops_markers_and_lost_characters() -> None:
    assert DEFECTS.run([Example("x", Record(text=LONG + "In winter it freezes."))]) == []
    assert [e.reason for e in DEFECTS.run([Example("x", Record(text="a <|im_end|> b"))])] == ["chat marker"]
    assert [e.reason for e in DEFECTS.run([Example("x", Record(text=LOOP))])] == ["repetition loop"]


def test_a_reason_comes_once_and_the_evidence_is_a_place() -> None:
    turns = (Message("user", "A bird?"), Message("assistant", "<|im_end|> crow")) * 2
    (entry,) = DEFECTS.run([Example("x", Record(messages=turns))])
    assert (entry.field, entry.start, entry.end) == ("messages.1.content", 0, 10)


@pytest.mark.parametrize("blank", ["", " " * 200, "\n" * 200, "\u200b" * 200, "```" * 40, "(" * 200, "#" * 200])
def test_odd_texts_break_no_rule(blank: str) -> None:
    reasons(blank, blank)
    reasons("Name a bird.", blank)
    reasons(blank, "A crow.")


def test_it_does_not_depend_on_the_batch_and_edits_nothing() -> None:
    rows = [
        Example(str(number), Record(messages=(Message("user", prompt), Message("assistant", answer))))
        for number, (_, prompt, answer) in enumerate(FOUND)
    ]
    alone = [entry for row in rows for entry in DEFECTS.run([row])]
    assert DEFECTS.run(rows) == alone
    for row in rows:
        after, _, _ = fold(row, [entry for entry in alone if entry.record == row.id])
        assert after.record == row.record


def test_brackets_in_strings_and_comments_do_not_count() -> None:
    assert open_brackets("f(')', \"(\") // (\n# (\n/* ( */ g[") == ["["]
    assert open_brackets("f(x)) {") == [], "what does not nest says nothing"
