"""Answers that refuse: a small grammar of the sentence that a refusal begins with, in twelve languages.

A refusal opens in one of four ways: an apology with an inability behind it; the speaker as a machine with an inability
behind it; an inability with a verb of helping; or an impersonal "it is not possible for me", "that goes against my
guidelines". Whether it is a defect depends on what was asked: to a harmful request it is the right answer.
"""

import re
from functools import lru_cache
from typing import Final

from luthier.curate.pair import Evidence, Pair
from luthier.curate.prompts import REFERS

_ABLE: Final = (
    r"(?:can['’]?t|cannot|can not|could not|couldn['’]?t|won['’]?t|will not|would not be able|wouldn['’]t be able"
    r"|(?:am |['’]m |are |was )?(?:currently |simply |still |also )?(?:unable|not (?:currently )?(?:able|going to"
    r"|capable"
    r"|comfortable|designed|programmed|built|trained|made|meant|allowed|permitted|equipped|qualified|authori[sz]ed"
    r"|supposed|in a position))"
    r"|(?:must|have to|need to|will have to|am going to|shall) (?:\w+ly )?(?:decline|refuse|refrain|pass on|turn)"
    r"|(?:\w+ly )?(?:decline|refuse) to|(?:would|['’]d) (?:rather|prefer) not"
    r"|(?:do not|don['’]?t|did not|didn['’]?t) (?:feel (?:comfortable|able)|(?:actually "
    r"|currently )?have (?:\w+ ){0,3}?"
    r"(?:access|ability|abilit\w+|capabilit\w+|capacity|information|details|context|knowledge|data|means|permission"
    r"|opinions?|feelings?|emotions?|preferences?|beliefs?|experiences?|favou?rites?|a body|senses)"
    r"|(?:provide|engage|assist|support|offer) )|lack (?:the|any) )"
)
_WHY: Final = (
    r"(?:(?:against|violat\w+|beyond|outside|conflicts? with|contrary to|prohibited by|not (?:within|in line with))"
    r" (?:of )?(?:my|our|the|openai['’]?s?|its) (?:\w+ ){0,3}?(?:guidelines?|polic\w+|programming|principles|terms"
    r"|rules"
    r"|scope|capabilit\w+|abilit\w+|values|ethic\w*|purpose|design|knowledge|expertise)"
    r"|not something (?:that )?(?:i|we)\b|(?:not |im)possible for me|not (?:appropriate|ethical)"
    r"|inappropriate|unethical)"
)
_VERB: Final = (
    r"(?:\w+ly |in good conscience )?(?:assist|help(?! (?:but|\w+ing)\b)|provide|fulfil|comply|answer|write|create"
    r"|generate|do (?:that|this|it|so|what)|complete|support|engage|discuss|perform|participate|respond|repl(?:y|ies)"
    r"|give (?:you(?! enough)|an? (?:answer|response|opinion)|advice)|offer|produce|process|solve|handle|share|complet"
    r"|carry out|accommodate|address|satisfy|grant|continue with|make (?:that|this|such)|talk about|advise|accept)"
)
_AI: Final = (
    r"(?:an?|your|only an?|just an?|merely an?|simply an?) (?:[\w-]+ ){0,4}?(?:ai|a\.i\.|artificial intelligence"
    r"|language model|llm|chatbot|virtual assistant|assistant|bot|computer program|machine)\b(?! learning)"
)
_S: Final = r"[^.!?\n]"  # within a sentence
_ENGLISH: Final = (
    rf"(?:(?:i['’]?m|i am|we are|we['’]re)\s(?:\w+ )?(?:sorry|afraid)|(?:so |very )?sorry"
    rf"|(?:i|we) (?:\w+ )?(?:apologi[sz]e|regret)|(?:my |our )?(?:\w+ )?apologies|unfortunately|regrettably"
    rf"|(?:please )?(?:forgive|pardon|excuse) me|thank you for {_S}{{2,60}})\b{_S}{{0,90}}?"
    rf"(?:\b(?:i|we)(?: \w+ly| am| do)? ?{_ABLE}|\bnot able to (?:assist|help|answer)|\b{_WHY})"
    rf"|(?:(?:as|being|since i['’]?m|since i am|because i am|i['’]?m|i am) {_AI}){_S}{{0,140}}?"
    rf"\b(?:{_ABLE}|{_WHY}|(?:do not|don['’]?t|no) )"
    rf"|(?:no,? )?(?:but )?(?:i|we) (?:\w+ly )?(?:{_ABLE}(?: be able)?(?: to)? {_VERB}|(?:must|have to"
    rf"|will have to|need to)"
    rf" (?:\w+ly )?(?:decline|refuse)|(?:\w+ly )?(?:decline|refuse) to|(?:am |['’]m )?not comfortable"
    rf"|(?:do not|don['’]?t) (?:feel comfortable|(?:currently )?have (?:the |any )?(?:\w+ )?(?:access to|ability to"
    rf"|capability to|permission to)|have (?:enough|sufficient) (?:information|context|details|data) to)"
    rf"|(?:am |was )(?:not (?:able to|allowed to|permitted to|programmed to|designed to)|unable to)"
    rf"|(?:would|['’]d) (?:rather|prefer) not(?: to)? {_VERB}|can(?:not|['’]t) (?:this|that|your|with)\b)"
    rf"|i['’]m (?:unable to|not able to|not comfortable|not allowed to|not programmed to|not going to {_VERB})"
    rf"|i['’]d (?:rather|prefer) not(?: to)? {_VERB}"
    rf"|(?:it|this|that|such|your|the|what|\w+ing (?:this|that|to this|to that|your"
    rf"|such))\b(?:['’]s)?{_S}{{0,60}}?\b(?:(?:is|are|would be|['’]s|goes|go|falls?|violates?|was)"
    rf" )?{_WHY}(?<!not appropriate)(?<!not ethical)(?<!inappropriate)(?<!unethical)"
    rf"|(?:it is|it['’]s|it would be) (?:not (?:appropriate|ethical)|inappropriate|unethical) for me"
    rf"|my (?:\w+ )?(?:programming|guidelines|polic\w+|design|rules|principles|training) (?:{_S}{{0,30}})?"
    rf"(?:do(?:es)? not|don['’]t|doesn['’]t|prohibits?|prevents?|forbids?)"
)
_OTHERS: Final = (
    # German, Dutch
    rf"(?:es tut mir (?:\w+ )?leid|tut mir (?:\w+ )?leid|entschuldig\w+|verzeih\w*|leider|bedauerlicherweise"
    rf"|ich bedau\w+)"
    rf"\b{_S}{{0,90}}?\b(?:kann|darf|könn\w+|möchte|werde|bin|habe)\b{_S}{{0,60}}?\b(?:nicht|kein\w*|außerstande)\b"
    rf"|ich (?:kann|darf|möchte|werde) {_S}{{0,60}}?\b(?:nicht|keine?n?)\b {_S}{{0,40}}?(?:helfen|beantworten"
    rf"|nachkommen"
    rf"|weiterhelfen|erfüllen|unterstützen|bereitstellen|liefern|antworten|entsprechen)|als (?:\w+ )?(?:ki\b"
    rf"|sprachmodell"
    rf"|künstliche|großes sprachmodell|assistent){_S}{{0,100}}?\b(?:nicht|kein\w*)\b"
    rf"|(?:het spijt (?:me|mij)|helaas|mijn excuses|excuseer){_S}{{0,90}}?\b(?:kan|mag|ben|zal|heb)\b{_S}{{0,60}}?"
    rf"\b(?:niet|geen)\b|ik (?:kan|mag|wil) {_S}{{0,60}}?\b(?:niet|geen)\b {_S}{{0,40}}?(?:helpen|beantwoorden|voldoen"
    rf"|assisteren|geven|verlenen)|als (?:\w+ )?(?:ai\b|taalmodel|kunstmatige){_S}{{0,100}}?\b(?:niet|geen)\b"
    # French, Spanish, Italian, Portuguese
    rf"|(?:je suis (?:\w+ )?désolée?|désolée?|malheureusement|je regrette|je m['’]excuse"
    rf"|toutes mes excuses)\b{_S}{{0,90}}?"
    rf"(?:\bje ne (?:peux|puis|suis|saurais|pourrai|dispose)|je n['’]ai pas|m['’]est (?:pas possible|impossible))"
    rf"|je ne (?:peux|puis|saurais|suis) (?:malheureusement )?(?:pas )?(?:(?:vous |t['’]|y )?(?:aider|répondre|fournir"
    rf"|accéder|donner|traiter|assister)|en mesure|capable|autorisé)|en tant qu[e'’]{_S}{{0,120}}?\b(?:je ne|je n['’])"
    rf"|(?:lo siento|lo lamento|perd[oó]n\w*|disculp\w+|lamentablemente|desafortunadamente|me temo)\b{_S}{{0,90}}?"
    rf"\bno (?:puedo|podr\w+|me es posible|soy capaz|tengo|estoy)|no (?:puedo|podré|me es posible) (?:ayudar|responder"
    rf"|proporcion|cumplir|asist|complet|contest|ofrecer|realizar|darte|darle)|como (?:una? )?(?:ia\b|inteligencia"
    rf"|modelo|asistente){_S}{{0,120}}?\bno\b"
    rf"|(?:mi (?:di)?spiace|(?:sono )?spiacente|purtroppo|mi scus\w+|scus[ai])\b{_S}{{0,90}}?\bnon (?:posso|sono|riesco"
    rf"|mi è|ho|potrò)|non (?:posso|sono in grado di|mi è possibile) (?:aiutar|risponde|fornir|soddisfa|esegui|assiste"
    rf"|completa)|(?:in quanto|come) (?:una? |un['’])?(?:ia\b|intelligenza|modello|assistente){_S}{{0,120}}?\bnon\b"
    rf"|(?:desculp\w+|sinto muito|lamento|lamentavelmente|infelizmente|peço desculpas?)\b{_S}{{0,90}}?\bnão (?:posso"
    rf"|consigo|sou|tenho|me é|poderei|estou)|não (?:posso|consigo|me é possível) (?:ajud|respond|fornec|cumpr"
    rf"|atend|realiz"
    rf"|complet)|como (?:uma? )?(?:ia\b|inteligência|modelo|assistente){_S}{{0,120}}?\bnão\b"
    # Swedish, Polish, Russian
    rf"|(?:tyvärr|jag är (?:\w+ )?ledsen|förlåt|jag beklagar|beklagar)\b{_S}{{0,90}}?\b(?:kan|får|har"
    rf"|är)\b{_S}{{0,40}}?"
    rf"\b(?:inte|ingen|inga)\b|jag kan {_S}{{0,20}}?inte {_S}{{0,30}}?(?:hjälpa|svara|besvara|uppfylla|utföra)"
    rf"|som (?:en |ett )?(?:ai|språkmodell|artificiell){_S}{{0,100}}?\binte\b"
    rf"|(?:przykro mi|przepraszam|niestety|wybacz)\b{_S}{{0,90}}?\bnie (?:mogę|jestem w stanie|potrafię|mam|będę|wolno)"
    rf"|nie (?:mogę|jestem w stanie|potrafię) (?:\w+ )?(?:pomóc|odpowiedzieć|spełnić|udzielić|wykonać|zrealizować)"
    rf"|jako (?:\w+ )?(?:model|ai\b|sztuczna|si\b|asystent){_S}{{0,120}}?\bnie\b"
    rf"|(?:извин\w+|прости\w*|к сожалению|мне (?:очень )?жаль|прошу прощения|сожалею|увы)\b{_S}{{0,90}}?"
    rf"\b(?:не (?:могу|смогу|в состоянии|имею|способ\w+|умею|буду)|нет (?:доступа|возможности))"
    rf"|я не (?:могу|смогу|в состоянии) (?:\w+ ){{0,2}}?(?:помочь|ответить|выполнить|предоставить|написать|сделать)"
    rf"|(?:как|будучи|я) (?:\w+ )?(?:ии\b|искусственн\w+|языков\w+){_S}{{0,120}}?\bне\b"
    # Chinese, Japanese
    r"|(?:非常|很|真的|十分)?(?:抱歉|对不起|對不起|不好意思|遗憾|遺憾)[^。！？\n]{0,40}?(?:无法|無法|不能|没有能力|沒有能力|没办法|沒辦法|不会)"
    r"|我(?:目前|暂时|現在)?(?:无法|無法|不能)(?:[^。！？\n]{0,10}?)(?:帮|幫|提供|回答|协助|協助|满足|滿足|完成|处理|處理)"
    r"|(?:作为|作為|身为)[^。！？\n]{0,12}?(?:人工智能|人工智慧|ai|语言模型|語言模型|助手)[^。！？\n]{0,50}?(?:无法|無法|不能|没有|沒有)"
    r"|(?:大変)?(?:申し訳|すみません|恐れ入りますが|残念ながら)[^。！？\n]{0,60}?(?:できません|できかねます|いたしかねます|お答えでき|ありません)"
)
_REFUSES: Final = re.compile(
    rf"\W*(?:(?:hello|hi|hey|thanks|oh|well|hmm|no)\b[,.! ]+)?(?:{_ENGLISH}|{_OTHERS})", re.IGNORECASE
)
# A refusal begins with one of these words. Most answers do not, and cost no more than this look.
_FIRST: Final = re.compile(
    r"\W*(?:i\b|i['’]|we\b|we['’]|so sorry|very sorry|sorry|my |our |apolog|\w+ apolog|unfortunately|regrettably"
    r"|please f"
    r"|please p|please e|forgive|pardon|excuse|thank|as an?\b|as your|being|since i|because i|it\b|it['’]|this\b|that\b"
    r"|that['’]|such|your|\w+ing (?:to )?(?:this|that|your|such)|the request|the question|what you|no\b|but i"
    r"|hello|hi\b|hey|oh\b|well\b|hmm"
    r"|es tut|tut mir|entschuldig|verzeih|leider|bedauerlich|ich |als |het spijt|helaas|mijn|excuseer|ik "
    r"|je |désol|malheureu|toutes mes|en tant|lo siento|lo lamento|perd[oó]n|disculp|lamenta|lamento|desafort"
    r"|me temo|como"
    r"|mi |sono spi|spiacente|purtroppo|scus|non |in quanto|come |desculp|sinto|infeliz|peço|não "
    r"|tyvärr|jag |förlåt|beklagar|som |przy|przep|niestety|wybacz|nie |jako "
    r"|извин|прости|к сож|мне |прошу|сожал|увы|я |как |будучи|[非很真十抱对對不遗遺我作身大申す恐残])",
    re.IGNORECASE,
)
# What the answer gives after all.
_GIVES: Final = re.compile(
    r"```|\n\s*(?:[-*•]|\d+[.)])\s|\bhere(?:['’]s| is| are)\b|\bfor example\b|####|\b(?:however|that said|instead"
    r"|but)\b,?"
    r" (?:i can (?!not\b|only say)|you (?:can|could|may|might)|here|in general|generally|let me)",
    re.IGNORECASE,
)
_ASKS_ONE: Final = re.compile(
    r"refus|declin|apolog|\bexcuse|turn(?:ing)? down|say(?:ing)? no\b|reject|\bsorry\b|absage|ablehn|rechaz|rifiut"
    r"|recus"
    r"|отказ|извин|拒绝|道歉",
    re.IGNORECASE,
)


@lru_cache(maxsize=1)  # three rules ask, one after the other
def refuses(pair: Pair) -> re.Match[str] | None:
    """The words with which an answer that may be judged for it begins to refuse."""
    if not pair.answer or pair.kind != "conversation" or pair.tools or _FIRST.match(pair.answer) is None:
        return None
    found = _REFUSES.match(pair.answer[:320])
    if found is None or _ASKS_ONE.search(pair.prompt):
        return None
    return None if len(pair.words) >= LONG and _GIVES.search(pair.answer, found.end()) else found


LONG: Final = 40  # words from which an answer that begins to refuse may still give what was asked


def refusal(pair: Pair) -> Evidence | None:
    """The answer begins by refusing. For review only: to a harmful request a refusal is the right answer.

    Not a defect, so not flagged: of a page or picture that it cannot see; in a preference, where somebody preferred it;
    in a labelled answer that is wanted; with tools, which bound what an assistant can do; where the prompt asks for an
    apology or a refusal; where more than a few lines with what was asked follow; where the answer asks for something
    that the prompt speaks of and does not hold. Not caught: a refusal after other words.
    """
    match = refuses(pair)
    if match is None or needless_refusal(pair) is not None:
        return None
    if _UNSEEN.search(pair.low, 0, 200) and any(word in pair.asked for word in ("http", "attach", "image", "picture")):
        return None
    if missing(pair.low) and len(pair.prompt) < 200 and REFERS.search(pair.prompt) and not _HOLDS.search(pair.prompt):
        return None
    return Evidence("the answer refuses", 0, match.end())


_HOLDS: Final = re.compile(r":\s*\S|[\"“`\d]|\n\n")  # a prompt that names something has it with it
_UNSEEN: Final = re.compile(r"(?:access|open|view|see|browse|visit|load|read)\b")
_SUM: Final = re.compile(r"\d[\s\S]*\bhow (?:many|much|long|far|old)\b", re.IGNORECASE)
_NUMBER: Final = re.compile(r"\d+")
_CODE: Final = re.compile(
    r"\b(?:python|java|javascript|typescript|c\+\+|sql|bash|php|ruby|kotlin|haskell|html|css|django|node\.js|regex"
    r"|regular expression)\b|c#|\bdef \w+\(",
    re.IGNORECASE,
)
_WORK: Final = re.compile(
    r"\W*(?:please |can you |could you )?(?:writ(?:e|ing)|summari[sz]e|translate|list|explain|calculate|compute"
    r"|solve|convert"
    r"|sort|rewrite|rephrase|paraphrase|classify|categori[sz]e|define|compare|complete|implement|identify which|extract"
    r"|find the|name (?:a|the|three|five|some)|how many|how much|develop a|create a|design a|construct a"
    r"|what is the (?:sum"
    r"|product|capital|difference|square|area|value|average|meaning|past tense|plural|largest|longest|tallest|highest"
    r"|smallest|population))\b",
    re.IGNORECASE,
)
# What makes a refusal thinkable in any task, even one of numbers or code.
_HARM: Final = re.compile(
    r"kill|murder|weapon|bomb|explos|attack|hack|malware|ransom|virus|keylog|phish|exploit|crack(?:ing)?\b|steal|fraud"
    r"|scam|launder|counterfeit|forge|cocaine|meth\b|heroin|suicid|self-harm|rape|porn|nude|racis|slur|nazi|terror"
    r"|illegal|drug|marijuana|tortur|poison|blackmail|stalk|\bspy|surveil|deepfake|ddos|botnet|backdoor"
    r"|inject(?:ion)? attack"
    r"|scrap(?:e|ing)"
    r"|brute.?force|password",
    re.IGNORECASE,
)
# Words that make a refusal thinkable. A wide net, on purpose: what it holds back is only flagged.
_TOUCHY: Final = re.compile(
    r"gun\b|guns\b|knife|shoot|theft|rob\b|fake|cheat|drug|weed|alcohol|harm|abus|sex|naked|erotic|child|minor"
    r"|racial|hate"
    r"|hitler|jew|muslim|black|white people|gay|gender|women|men\b|immigra|relig|polit|elect|vote|president"
    r"|conspir|crime"
    r"|criminal|prison|toxic|danger|threat|bully|insult|offens|swear|curse|profan|joke about"
    r"|manipulat|track|address|phone|social security|credit card|private|personal|medical|diagnos"
    r"|medicine|dose|symptom|treat|legal|lawsuit|invest|stock|gambl|bet\b|copyright|lyrics|song|entire book"
    r"|impersonat|propaganda|misinform|disinform|evil|devil|die\b|dead|blood|violen|war\b|fight|revenge|hurt"
    r"|current|latest|today|tomorrow|yesterday|now\b|weather|news|recent|real-time|live\b|near me|feel"
    r"|opinion|favou?rite|\bmy\b|\bme\b(?! (?:a|an|the|some|five|three|ten|how|about|what|which|why|all)\b)|should i\b"
    r"|you think|your |are you|do you|you like|have you|would you (?:rather|like)|image|photo|picture|video|audio|file"
    r"|attach|http|www\.|link|website"
    r"|browse|search|e-?mail|send|call\b|book a|order\b|remind|alarm|future|predict|will happen|going to (?:win"
    r"|happen)",
    re.IGNORECASE,
)


def needless_refusal(pair: Pair) -> Evidence | None:
    """A short refusal of plain work, and nothing else: there is nothing in the prompt that could make it right.

    Dropped, because a model trained on it refuses what it could do. The answer must be a refusal and little else (under
    60 words, nothing given after it), to the first turn without a system turn. Plain work is a sum in words or a task
    in a programming language that does not speak of harm; and what begins as text work does ("Summarize", "List",
    "What is the capital") and is free of a wide list of words: persons, advice, today's facts, media, opinions, the
    model itself. Whatever fails is only flagged, so safety data keeps its refusals.
    """
    found = refuses(pair)
    if found is None or not pair.first or pair.system or len(pair.words) >= 60 or len(pair.prompt) < 15:
        return None
    if _GIVES.search(pair.answer or "", found.end()) or missing(pair.low) or _HARM.search(pair.prompt):
        return None
    sure = (_SUM.search(pair.prompt) and len(_NUMBER.findall(pair.prompt)) > 1) or _CODE.search(pair.prompt)
    if not sure and (not _WORK.match(pair.prompt) or _TOUCHY.search(pair.prompt)):
        return None
    return Evidence("the answer refuses plain work", 0, found.end())


def missing(low: str) -> bool:
    """Whether an answer in lower case says, rightly, that something was not given, or asks for it."""
    return any(
        words in low
        for words in ("please provide", "please share", "could you provide", "can you provide", "could you share",
                      "provide me with", "please paste", "you provide", "more context", "more information",
                      "more details", "enough information", "not provided", "please clarify", "could you clarify",
                      "didn't provide", "haven't provided", "no text", "i don't see", "i don’t see", "please give")
    )  # fmt: skip
