"""Words in a prompt that several steps look for: what it is about decides what is a defect in the answer."""

import re
from typing import Final

# A prompt about these may well be answered with template markers, placeholder words or broken characters.
ABOUT_MARKERS: Final = re.compile(
    r"\b(?:template|prompt|token|tokens|tokeni[sz]er|chatml|alpaca|llama|instruct\w*[- ]tun|fine-?tun|dataset|markdown"
    r"|special character|role-?play|dialogue|conversation|transcript|chat|chatbot|screenplay|interview|few-shot"
    r"|script for|script between|(?:movie|film|play|video|call|sales) script|language models?|llms?)\b",
    re.IGNORECASE,
)
ABOUT_ENCODING: Final = re.compile(
    r"mojibake|\bencod|\bdecod|garbled|unicode|utf-?8|utf-?16|latin-?1|windows-125|\bascii\b|charset|character set"
    r"|zero[- ]width|invisible character|control character|non-printable|escape sequence|\bansi\b",
    re.IGNORECASE,
)
# The instruction points at something that has to follow it.
REFERS: Final = re.compile(
    r"\b(?:following|below|above|these|this|those|given|provided|input|listed|mentioned)\b|:\s*$", re.IGNORECASE
)
