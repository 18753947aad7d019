"""What is wrong with one text, whoever wrote it: refusals, what generating left over, letters that look like others."""

from __future__ import annotations

import re
from functools import lru_cache

from train.shingles import Texts

HEAD = 300
"""Characters from the beginning of an answer among which a refusal stands."""

REFUSALS = (
    # “…” is a gap. In any alphabet: they are looked for by their skeletons.
    "kechirasiz … yordam bera olmayman",
    "kechirasiz … javob bera olmayman",
    "kechirasiz … bajara olmayman",
    "kechirasiz … bu soʻrov",
    "uzr … yordam bera olmayman",
    "afsuski men … olmayman",
    "men sunʼiy intellekt",
    "sunʼiy intellekt sifatida",
    "sunʼiy intellekt modeli sifatida",
    "sunʼiy intellekt yordamchisi sifatida",
    "men til modeliman",
    "men katta til modeli",
    "til modeli sifatida",
    "as an ai",
    "as a language model",
    "as a large language model",
    "im an ai",
    "i am an ai",
    "im sorry but i",
    "i am sorry but i",
    "i apologize but i",
    "i cannot assist",
    "i cant assist",
    "i cannot help with",
    "i cant help with",
    "i cannot fulfill",
    "im unable to",
    "i am unable to",
    "извините … я не могу",
    "к сожалению … я не могу",
    "простите … я не могу",
    "я не могу помочь",
    "как языковая модель",
    "как искусственный интеллект",
    "я искусственный интеллект",
    "я языковая модель",
)

_LEFT_OVER = re.compile(
    r"<no(?:in|out)put>|\bTODO\b|\[(?:…|\.{3})\]|^#{2,} ?(?:Instruction|Input|Response)\b|\bas requested:"
    r"|^(?:Instruction|Output|Response):|\blorem ipsum\b|<\|\w+\|>|\[/?INST\]|\{\{.*?\}\}"
    r"|\[(?:ism|sana|your|name|имя|ваше?|sizning)\b[^\]]*\]|\A\s*(?:none|null|n/?a|nan)\s*\Z",
    re.IGNORECASE | re.MULTILINE,
)
# Cyrillic before Latin, or one Latin letter before Cyrillic: the two look alike. Telegramга is a name and its ending.
_MIXED = re.compile(r"[\u0400-\u04ff][ʻʼ'‘’`]?[A-Za-z]|\b[A-Za-z][\u0400-\u04ff]")
_INVISIBLE = re.compile(r"[\x01-\x08\x0b\x0c\x0e-\x1f\x7f\u00ad\u200b\u200e\u200f\u2028-\u202e\u2060\ufeff]")


def refuses(answer: str) -> bool:
    """Whether an answer declines, in Uzbek, Russian or English, in any alphabet."""
    (head,) = Texts([answer[:HEAD]])
    return bool(_refusal().search(head))


@lru_cache(maxsize=1)
def _refusal() -> re.Pattern[str]:
    """All of REFUSALS, as skeletons."""
    phrases = (r"\b.{0,80}?\b".join(Texts(phrase.split("…"))) for phrase in REFUSALS)
    return re.compile("|".join(rf"\b{phrase}\b" for phrase in phrases))


def left_over(answer: str, input: str = "") -> str | None:
    """A placeholder, heading or chat mark that generating left in an answer, or that an input is; None without one."""
    found = _LEFT_OVER.search(answer) or _LEFT_OVER.fullmatch(input.strip())
    return found[0] if found else None


def mixed_word(text: str) -> str | None:
    """The first word that has letters of two alphabets which look alike; None without one."""
    found = _MIXED.search(text)
    return next((word for word in text.split() if found[0] in word), found[0]) if found else None


def invisible(text: str) -> str | None:
    """The first character that nobody sees, such as a direction mark; None without one."""
    found = _INVISIBLE.search(text)
    return found[0] if found else None
