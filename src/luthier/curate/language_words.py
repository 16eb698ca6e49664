"""Small words and scripts that give a language away. Lists of the most frequent function words, made for this."""

import re
from collections import defaultdict
from typing import Final

# ISO 639-1 code → words that are frequent in every text of the language. A word may stand in several lists.
_LISTS: Final = {
    "en": "the of and to is with for that are you your this from by be an it as or not have has can will at "
    "their which "
    "what how his her they was were been would there if we on in a i he she but when who more into than its about do "
    "does did me my no so up out s t go had may should could these them then some any one two each all over only also",
    "de": "der die das und ist nicht mit ein eine einen einem einer zu den von auf für im sich auch als es an "
    "werden aus "
    "er sie wird bei sind oder ich wir dass wie nach über zum zur haben hat kann ihre ihr sein durch um",
    "fr": "le la les des et est une un dans pour que qui pas sur avec par plus du au ce il elle sont vous nous "
    "ou cette "
    "ses leur mais être aux de en se ne je peut fait comme c'est d'un d'une l'on été",
    "es": "el la los las de y que en un una es por con para no se del al lo su como más pero sus le ya o este "
    "sí porque "
    "esta son entre cuando muy sin sobre también me hasta hay donde puede ser está fue",
    "it": "il la lo gli le di e che è in un una per con non si del della dei delle da al alla come più ma anche sono "
    "questo questa nel nella ha o essere se ci su tra può i dal",
    "pt": "o a os as de e que em um uma é por com para não se do da dos das no na como mais mas ao ele seu sua ou ser "
    "quando muito também já está são pelo pela você foi isso nos entre",
    "nl": "de het een en van is in dat die niet te op met voor zijn er aan ook als maar bij om dan naar wordt of hij "
    "uit deze door kan worden je ik wij we zij hebben heeft tot over",
    "sv": "och att det som en är på för med av inte den till har de ett om jag du kan men från så vi var eller när hur "
    "sin man också blir över under",
    "da": "og at det som en er på for med af ikke den til har de et om jeg du kan men fra så vi var eller når hvordan "
    "sin man også bliver over under",
    "nb": "og at det som en er på for med av ikke den til har de et om jeg du kan men fra så vi var eller når hvordan "
    "sin man også blir over under",
    "pl": "i w na z nie się że do jest to co jak o ale za od po dla są jego tak lub przez może być przy oraz "
    "które który "
    "tym tego ten ich jako już",
    "cs": "a v na se je že to s z do i o jako ale za od po pro jsou jeho tak nebo který která které být při také jsem "
    "jeho byl má k aby",
    "ro": "și de în la cu pe nu este un o care să din pentru că mai sunt ca se al a sau dar au fost prin după lui "
    "această acest poate fi cele",
    "tr": "ve bir bu da de için ile olarak daha çok en gibi olan ne var değil mi kadar sonra ama ya her o ise veya "
    "tarafından olduğu",
    "id": "yang dan di untuk dari dengan ini itu pada tidak adalah ke dalam akan atau oleh sebagai dapat juga karena "
    "lebih bisa anda saya kita mereka telah ada",
    "fi": "ja on ei se että hän oli ovat mutta kun niin myös tai joka kuin sen ole voi olla mitä kanssa ne jos vain "
    "sekä ovat tämä",
    "hu": "a az és hogy nem is egy van meg ez de csak már mint vagy ha el volt amely azt még minden lehet olyan ki "
    "kell után",
    "vi": "và của là có không được cho một các những trong với để này người đã khi về như từ trên đến nhiều cũng bạn",
    "ru": "и в не на что с по как это он к но из у за от о для так же вы бы или его то все она был мы также их при "
    "может есть если только быть",
    "uk": "і в не на що з по як це він до але із у за від про для так же ви або його та вона був ми також їх "
    "при може є "
    "якщо тільки бути й",
}
WORDS: Final[dict[str, tuple[str, ...]]] = {}
_made: defaultdict[str, list[str]] = defaultdict(list)
for _code, _words in _LISTS.items():
    for _word in sorted(set(_words.split())):
        _made[_word].append(_code)
WORDS.update({word: tuple(codes) for word, codes in _made.items()})

# English words that the other languages here do not have, capitalised too: two of them are enough to know English.
_ENGLISH: Final = (
    "the and that with are you your this from which what how their they these been were would there could should when "
    "who it its it's you're don't because about into than has being such them some other where while using used each "
    "more many most between after before only also both through does his her she our my if by of"
)
ENGLISH: Final = frozenset(word for small in _ENGLISH.split() for word in (small, small.capitalize()))

# Languages so close that short texts of one pass for the other: never called wrong for each other.
FAMILIES: Final = (
    frozenset({"da", "nb", "nn", "sv", "is"}),
    frozenset({"es", "pt", "gl", "ca", "eu"}),
    frozenset({"cs", "sk", "pl", "sl"}),
    frozenset({"ru", "uk", "be", "bg", "sr", "mk", "kk", "mn"}),
    frozenset({"id", "ms", "tl", "jv"}),
    frozenset({"hr", "sr", "bs", "sl"}),
    frozenset({"hi", "mr", "ne", "sa"}),
    frozenset({"zh", "ja"}),
    frozenset({"ar", "fa", "ur"}),
    frozenset({"nl", "af"}),
    frozenset({"tr", "az"}),
    frozenset({"it", "co"}),
)

# Script → its letters, and the language it is taken for where it has one ("" where it has several).
SCRIPTS: Final = (
    ("ja", re.compile("[\u3040-\u30ff]")),
    ("zh", re.compile("[\u3400-\u4dbf\u4e00-\u9fff]")),
    ("ko", re.compile("[\u1100-\u11ff\uac00-\ud7af]")),
    ("el", re.compile("[\u0386-\u03ce\u1f00-\u1fff]")),
    ("he", re.compile("[\u05d0-\u05ea]")),
    ("th", re.compile("[\u0e01-\u0e4e]")),
    ("ka", re.compile("[\u10a0-\u10ff]")),
    ("hy", re.compile("[\u0531-\u0587]")),
    ("ta", re.compile("[\u0b80-\u0bff]")),
    ("te", re.compile("[\u0c00-\u0c7f]")),
    ("bn", re.compile("[\u0980-\u09ff]")),
    ("gu", re.compile("[\u0a80-\u0aff]")),
    ("pa", re.compile("[\u0a00-\u0a7f]")),
    ("cyrillic", re.compile("[\u0400-\u052f]")),
    ("arabic", re.compile("[\u0620-\u064a\u0671-\u06d3]")),
    ("devanagari", re.compile("[\u0900-\u0963]")),
)

_ADJECTIVES: Final = (
    "english|german|french|spanish|italian|portuguese|brazilian|dutch|flemish|swedish|danish|norwegian|finnish"
    "|icelandic"
    "|polish|czech|slovak|slovenian|romanian|bulgarian|hungarian|greek|turkish|russian|ukrainian|serbian|croatian"
    "|bosnian|arabic|hebrew|persian|farsi|urdu|hindi|marathi|bengali|punjabi|gujarati|tamil|telugu|nepali|thai"
    "|vietnamese|indonesian|malay|tagalog|filipino|chinese|mandarin|cantonese|japanese|korean|latin|swahili|somali"
    "|zulu|xhosa|yoruba|afrikaans|catalan|basque|galician|welsh|irish|gaelic|esperanto|albanian|armenian|georgian"
    "|azerbaijani|kazakh|mongolian|estonian|latvian|lithuanian|maori|hinglish|spanglish|mexican|austrian|swiss"
)
# The prompt gives a reason for another language.
ASKED: Final = re.compile(
    rf"\b(?:{_ADJECTIVES})\b|translat|\blanguages?\b|bilingual|multilingual|localiz|localis|interpreter|romaji|pinyin"
    r"|transliterat|lorem ipsum|\b(?:deutsch|allemand|français|francais|anglais|español|espanol|inglés|ingles|alemán"
    r"|italiano|inglese|português|portugues|inglês|englisch|französisch|spanisch|engels|duits|engelska|angielsk\w*"
    r"|traduc\w*|traduis\w*|tradui\w*|traduz\w*|übersetz\w*|vertaal\w*|översätt\w*|oversæt\w*|przetłumacz\w*"
    r"|sprache|langue|idioma|lingua|língua|taal|språk|język\w*)\b|язык|перевед|перевод|англий|немец|французск|мов"
    r"|翻译|翻譯|英文|英语|英語|中文|日本語|日语|訳|한국어|영어|번역|ترجم|الإنجليزية|अंग्रेज़ी|अनुवाद",
    re.IGNORECASE,
)
