"""The language of texts, and answers in a language that nothing asked for."""

from collections import Counter

import pytest

from luthier.curate.example import Example
from luthier.curate.language import LANGUAGE, language_of, languages
from luthier.data.records import Message, Record

TEXTS = {
    "en": "The capital of France is Paris. The city lies on the Seine and has been the centre of it for long.",
    "de": "Die Hauptstadt von Frankreich ist Paris. Die Stadt liegt an der Seine und ist seit langem das Zentrum.",
    "fr": "La capitale de la France est Paris. La ville se trouve sur la Seine et elle est le centre du pays.",
    "es": "La capital de Francia es París. La ciudad está a orillas del Sena y ha sido el centro del país por siglos.",
    "nl": "De hoofdstad van Frankrijk is Parijs. De stad ligt aan de Seine en is al eeuwen het midden van het land.",
    "pl": "Stolicą Francji jest Paryż. Miasto leży nad Sekwaną, a od wieków jest to środek kraju i nie tylko dla nich.",
    "ru": "Столица Франции — Париж. Город расположен на берегах Сены и уже много веков является центром страны.",
    "zh": "法国的首都是巴黎。这座城市位于塞纳河畔，几个世纪以来一直是该国的中心。",
    "ja": "フランスの首都はパリです。セーヌ川沿いにあり、何世紀にもわたって国の中心となっています。",
    "ko": "프랑스의 수도는 파리입니다. 이 도시는 센강에 있으며 수세기 동안 나라의 중심이었습니다.",
    "ar": "عاصمة فرنسا هي باريس. تقع المدينة على ضفاف نهر السين وكانت مركز البلاد لقرون عديدة",
    "el": "Η πρωτεύουσα της Γαλλίας είναι το Παρίσι. Η πόλη βρίσκεται στον Σηκουάνα εδώ και αιώνες.",
}
SWAHILI = (
    "Mji mkuu wa Ufaransa ni Paris. Mji huu uko kando ya mto Seine na umekuwa kitovu cha nchi kwa karne nyingi sana, "
    "na watu wengi huishi huko pamoja"
)
ASK = {
    "en": "What is the capital of the country that lies west of the Rhine?",
    "de": "Was ist die Hauptstadt des Landes, das westlich von dem Rhein liegt, und warum ist sie wichtig?",
    "zh": "莱茵河以西的那个国家的首都是哪里？请详细介绍一下这座城市的历史。",
}


def found(prompt: str, answer: str, system: str = "") -> list[tuple[str, str]]:
    turns = (Message("system", system),) if system else ()
    record = Record(messages=(*turns, Message("user", prompt), Message("assistant", answer)))
    return [(entry.action, entry.reason) for entry in LANGUAGE.run([Example("x", record)])]


@pytest.mark.parametrize("code", TEXTS)
def test_languages_are_known(code: str) -> None:
    guess = language_of(TEXTS[code])
    assert guess is not None and guess.code == code and guess.how in ("words", "script")


@pytest.mark.parametrize("asked", ASK)
@pytest.mark.parametrize("answered", TEXTS)
def test_an_answer_in_another_language_is_dropped(asked: str, answered: str) -> None:
    siblings = {asked, "ja"} if asked == "zh" else {asked}
    expected = [] if answered in siblings else [("drop", "wrong language")]
    assert found(ASK[asked], TEXTS[answered]) == expected


def test_what_only_the_model_says_is_flagged() -> None:
    assert found(ASK["en"], SWAHILI) == [("flag", "wrong language suspected")]


@pytest.mark.parametrize(
    ("prompt", "system"),
    [
        ("Translate it: the capital of the country is Paris", ""),
        ("What is the German text for this about the city?", ""),
        ("Summarize the text that follows.\n\n" + TEXTS["de"], ""),
        (ASK["en"], "Always answer in German."),
        (ASK["en"] + " Antworte auf Deutsch.", ""),
        ("Paris?", ""),
    ],
)
def test_another_language_that_is_asked_for_or_given_is_right(prompt: str, system: str) -> None:
    assert found(prompt, TEXTS["de"], system) == []


@pytest.mark.parametrize(
    "answer",
    [
        "Frappuccino, espresso, caramel macchiato, latte, cappuccino, tiramisu, panna cotta, gelato, ricotta",
        "Park Güell - paid\nParc de la Ciutadella - free\nLa Boqueria - free\nCasa Batlló - paid\nLa Rambla - free",
        "Munich, Vienna, Zürich, Dortmund, Lucerne, Bern, Stuttgart, Klagenfurt, Salzburg, Bremen, Genève",
        "pale ale, brown ale, red ale, cream ale, mild ale, India pale ale, lager, stout, porter, wheat",
        "Golf: no ball\nBoxing: no ball\nSoccer: ball\nFootball: ball\nWrestling: no ball\nTennis: ball",
        "7 tees cost 7*8=<<7*8=56>>56 dollars.\n4 jeans cost 4*11=<<4*11=44>>44 dollars.\n#### 100",
        "concat :: String -> String -> String\nconcat a b = a ++ b\nmain = putStrLn (concat a b)",
        "SELECT nom, de, la FROM les WHERE des = 'el' AND en IN (una, para, por) ORDER BY que, los",
        "Adieu!",
        "東京",
        "∀ε>0 ∃δ>0: |x−a|<δ ⇒ |f(x)−f(a)|<ε, ∑ᵢ αᵢ βᵢ = γ, λ μ ν π ρ σ τ",
        "Lorem IPSUM 12 34 56 78 90 12 34 56 78 90 12 34 56 78 90",
    ],
)
def test_lists_of_names_code_and_formulas_have_no_wrong_language(answer: str) -> None:
    assert found(ASK["en"], answer) == []


def test_only_what_is_trained_on_counts() -> None:
    ask, right, wrong = (Message(*turn) for turn in (("user", ASK["en"]), ("assistant", TEXTS["en"]),
                                                     ("assistant", TEXTS["de"])))  # fmt: skip
    assert LANGUAGE.run([Example("x", Record(messages=(ask,), chosen=(right,), rejected=(wrong,)))]) == []
    (entry,) = LANGUAGE.run([Example("x", Record(messages=(ask,), chosen=(wrong,), rejected=(right,)))])
    assert entry.field == "chosen.0.content" and "asked in en, answered in de" in entry.detail
    assert LANGUAGE.run([Example("x", Record(messages=(ask, wrong), label=False))]) == []
    assert LANGUAGE.run([Example("x", Record(text=TEXTS["de"]))]) == []


def test_a_turn_before_may_have_asked_for_it() -> None:
    turns = (
        Message("user", "From now on use German for your answers, please, and only that."),
        Message("assistant", "Gern, das mache ich für dich und es ist mir eine Freude, das zu tun."),
        Message("user", ASK["en"]),
        Message("assistant", TEXTS["de"]),
    )
    assert LANGUAGE.run([Example("x", Record(messages=turns))]) == []


def test_code_in_a_fence_does_not_hide_the_language_around_it() -> None:
    assert found(ASK["en"], TEXTS["de"] + "\n```python\nif the: and_of = that\n```") == [("drop", "wrong language")]


def test_languages_are_counted() -> None:
    texts = [*TEXTS.values(), TEXTS["en"], "Yes", "def f(x):\n    return [x[0], f(x[1:])]"]
    counts = languages(Example(str(n), Record(text=text)) for n, text in enumerate(texts))
    assert counts == Counter({**dict.fromkeys(TEXTS, 1), "en": 2, "": 1, "code": 1})
