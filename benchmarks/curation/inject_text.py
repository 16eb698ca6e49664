"""Words that injected defects are made of. Written for this benchmark, without a look at the rules it measures."""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Tables:
    """What differs between the two halves, so that rules made with one are measured on words they were not made from.

    Attributes:
        refusals: each alone is an answer; {} takes the first words of the prompt.
        leaks_after: name → what follows the answer; {prompt} and {answer} are another row's.
        leaks_before: name → what comes before the answer; {own} is this row's prompt.
        merges: name → (the answer, the prompt) of two rows that ran into one; "" leaves the prompt. "bare" has no mark.
        languages: name → sentences, of which an answer is made.
    """

    refusals: tuple[str, ...]
    leaks_after: dict[str, str]
    leaks_before: dict[str, str]
    merges: dict[str, tuple[str, str]]
    languages: dict[str, tuple[str, ...]]


_REFUSALS: Final = (
    "I'm sorry, but I can't help with that.",
    "I am sorry, I cannot assist with this request.",
    "As an AI language model, I do not have personal opinions and cannot answer this question.",
    "As an AI, I am unable to do this task. Please consult a professional.",
    "I'm just a language model, so I don't have access to real-time information about this.",
    "Unfortunately, I am not able to complete this request.",
    "I apologize, but I cannot fulfill this request as it goes against my programming.",
    "Sorry, I can't answer that.",
    "I cannot provide an answer to “{}”.",
    "I'm afraid I won't be able to help you with “{}”.",
    "I don't have enough information to answer this question. Could you please provide more details?",
    "I regret that I am unable to comply with your request.",
    "It is not possible for me to respond to this, as I am an artificial intelligence without such abilities.",
    "My apologies, but I'm not comfortable answering this question.",
    "I must decline to answer, because it would not be appropriate.",
    "As a large language model trained by OpenAI, I can't browse the internet, so I can't answer this.",
)

_LEAKS_AFTER: Final = {
    "alpaca": "\n\n### Instruction:\n{prompt}\n\n### Response:\n{answer}",
    "chatml": "<|im_end|>\n<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n{answer}",
    "llama": " </s><s>[INST] {prompt} [/INST] {answer}",
    "human": "\n\nHuman: {prompt}\n\nAssistant: {answer}",
    "user": "\nUser: {prompt}\nAssistant: {answer}",
    "eos": "<|endoftext|>{prompt}",
}
_LEAKS_BEFORE: Final = {
    "response": "### Response:\n",
    "assistant": "Assistant: ",
    "preamble": "Below is an instruction that describes a task. Write a response that appropriately completes the "
    "request.\n\n### Instruction:\n{own}\n\n### Response:\n",
    "output": "Input: {own}\nOutput: ",
}

_MERGES: Final = {
    "numbered": (
        "{answer}\n\n{number}. Instruction: {other_prompt}\n{number}. Input:\n<noinput>\n{number}. Output:\n"
        "{other_answer}",
        "",
    ),
    "marked": ("{answer}\nInstruction: {other_prompt}\nOutput: {other_answer}", ""),
    "question": ("{answer}\n\nQuestion: {other_prompt}\nAnswer: {other_answer}", ""),
    "bare": ("{answer}\n\n{other_answer}", "{prompt}\n\n{other_prompt}"),
}

# Text with characters outside ASCII, for rows that have none and are to be damaged as mojibake.
ACCENTED: Final = (
    "The café in Zürich was Zoë’s favourite – she went there every day.",
    "“It costs £5 or €6,” said José, “and it’s worth it.”",
    "Señor Muñoz and Mme Lefèvre met at 20 °C in São Paulo…",
    "The naïve résumé of Björn Ångström was two pages long — and it worked.",
    "Łukasz and Øyvind visited Kraków, Tromsø and Besançon.",
)

CONTRACTIONS: Final = (
    ("do not", "don't"), ("does not", "doesn't"), ("did not", "didn't"), ("is not", "isn't"), ("are not", "aren't"),
    ("was not", "wasn't"), ("cannot", "can't"), ("will not", "won't"), ("it is", "it's"), ("that is", "that's"),
    ("there is", "there's"), ("you are", "you're"), ("they are", "they're"), ("we are", "we're"), ("I am", "I'm"),
    ("you will", "you'll"), ("would not", "wouldn't"), ("should not", "shouldn't"), ("has not", "hasn't"),
)  # fmt: skip
SYNONYMS: Final = (
    ("big", "large"), ("small", "little"), ("begin", "start"), ("help", "assist"), ("show", "display"),
    ("buy", "purchase"), ("get", "obtain"), ("make", "create"), ("use", "employ"), ("need", "require"),
    ("many", "numerous"), ("often", "frequently"), ("also", "as well"), ("because", "since"), ("but", "however"),
    ("important", "essential"), ("quick", "fast"), ("find", "locate"), ("keep", "retain"), ("each", "every"),
    ("write", "compose"), ("give", "provide"), ("total", "overall"), ("about", "roughly"), ("way", "manner"),
    ("people", "persons"), ("child", "kid"), ("house", "home"), ("job", "work"), ("return", "give back"),
    ("list", "enumeration"), ("calculate", "compute"), ("program", "application"), ("known", "recognised"),
    ("world", "globe"), ("usually", "normally"), ("different", "distinct"), ("money", "cash"), ("whole", "entire"),
)  # fmt: skip
OPENINGS: Final = (
    "Please answer the following. {}",
    "{} Please explain.",
    "I would like to know: {}",
    "Here is my question. {}",
)

_LANGUAGES: Final = {
    "german": (
        "Das hängt vor allem davon ab, wie viel Zeit Ihnen zur Verfügung steht.",
        "Am besten beginnen Sie mit einem kleinen Schritt und beobachten, was danach geschieht.",
        "Viele Menschen vergessen dabei, dass auch Pausen zur Arbeit gehören.",
        "Fragen Sie im Zweifel jemanden, der damit schon Erfahrung gesammelt hat.",
        "Im letzten Jahr wurden die meisten dieser Regeln noch einmal überarbeitet.",
        "Wenn das nicht hilft, sollten Sie die Einstellungen zurücksetzen und neu anfangen.",
    ),
    "french": (
        "Cela dépend surtout du temps dont vous disposez.",
        "Il vaut mieux commencer par une petite étape et regarder ce qui se passe ensuite.",
        "Beaucoup de gens oublient que les pauses font aussi partie du travail.",
        "En cas de doute, demandez à quelqu'un qui a déjà de l'expérience dans ce domaine.",
        "L'année dernière, la plupart de ces règles ont été révisées une nouvelle fois.",
        "Si cela ne suffit pas, rétablissez les réglages et recommencez depuis le début.",
    ),
    "spanish": (
        "Eso depende sobre todo del tiempo del que usted disponga.",
        "Lo mejor es empezar con un paso pequeño y observar lo que ocurre después.",
        "Muchas personas olvidan que los descansos también forman parte del trabajo.",
        "En caso de duda, pregunte a alguien que ya tenga experiencia en el tema.",
        "El año pasado se revisaron otra vez la mayoría de estas reglas.",
        "Si eso no ayuda, restablezca los ajustes y vuelva a empezar desde el principio.",
    ),
    "dutch": (
        "Dat hangt vooral af van hoeveel tijd u tot uw beschikking heeft.",
        "U kunt het beste met een kleine stap beginnen en kijken wat er daarna gebeurt.",
        "Veel mensen vergeten dat ook pauzes bij het werk horen.",
        "Vraag bij twijfel iemand die hier al ervaring mee heeft opgedaan.",
        "Vorig jaar zijn de meeste van deze regels opnieuw herzien.",
        "Als dat niet helpt, zet dan de instellingen terug en begin opnieuw.",
    ),
    "russian": (
        "Это зависит прежде всего от того, сколько у вас есть времени.",
        "Лучше всего начать с небольшого шага и посмотреть, что произойдёт дальше.",
        "Многие люди забывают, что перерывы тоже являются частью работы.",
        "Если вы сомневаетесь, спросите того, у кого уже есть опыт в этом деле.",
        "В прошлом году большинство этих правил снова пересмотрели.",
        "Если это не помогает, сбросьте настройки и начните сначала.",
    ),
}  # fmt: skip

# {} is the value. Most sentences name what it is; those in PERSONAL_UNNAMED do not.
PERSONAL_PROSE: Final = {
    "email": ("You can write to {} for the details.", "My address is {}, in case you need it.", "Contact: {}"),
    "phone": ("Call me on {} tomorrow.", "Phone: {}", "The office can be reached at {}."),
    "card": ("Please charge it to my card {}.", "Card number: {}", "I paid with {} last week."),
    "iban": ("Transfer the money to {}.", "IBAN: {}", "My account is {}."),
    "us_ssn": ("My social security number is {}.", "SSN: {}"),
    "es_dni": ("Mi DNI es {}.", "DNI: {}"),
    "nl_bsn": ("My BSN is {}.", "Burgerservicenummer: {}"),
    "pl_pesel": ("My PESEL number is {}.", "PESEL: {}"),
    "de_tax_id": ("Meine Steuer-ID lautet {}.", "Steueridentifikationsnummer: {}"),
}
PERSONAL_UNNAMED: Final = ("It was {}, as far as Maria knows.", "Maria Becker, {}", "{}")
UNNAMED: Final = 0.25  # share of personal data that no word beside it names
PERSONAL_CODE: Final = ("# {}", "// {}")
SECRET_CODE: Final = (
    '{name} = "{value}"', "{name} = '{value}'", "export {name}={value}", '"{name}": "{value}",', "# {name}: {value}",
)  # fmt: skip
SECRET_PROSE: Final = ("Use {value} as the key.", "The token is {value} and it works.", "{name}={value}")

TABLES: Final = Tables(_REFUSALS, _LEAKS_AFTER, _LEAKS_BEFORE, _MERGES, _LANGUAGES)
