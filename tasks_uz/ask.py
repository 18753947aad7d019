"""How a task puts its question: wordings, and the forms in which choices are offered.

    letters                     named                          cloze
    Matn qaysi mavzuga oid? …   Matn qaysi mavzuga oid?        Matn qaysi mavzuga oid?
    Matn: Poyezd kechikdi.      siyosat, sport … dan birini …  Matn: Poyezd kechikdi.
    A) siyosat                  Matn: Poyezd kechikdi.         Mavzu: ▁
    B) sport …                  Mavzu: ▁
    Javob: ▁

In `letters` the answer is the letter of an option, in the others the text of a choice. A document carries the form
and the prompt in which it is asked, as `load` was told to by the metadata of its variant.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tasks_uz.prompts import Prompt, render
from tasks_uz.text import convert

FORMS = ("letters", "named", "cloze")
PROMPTS = ("p1", "p2", "p3")

OPTION_LETTERS = "ABCDEFGH"
"""Latin in every alphabet."""

LETTER_CUE = "Javob:"


@dataclass(frozen=True, slots=True)
class Wording:
    """One way to put a task's question, in the Latin alphabet of 1995.

    ask: the question or request by itself. letters: what is added where options have letters. named: the whole
    instruction where the choices are named in it, or where they are listed below; None where they aren't.
    cue: the last words of the plain format, which an answer in words follows.
    """

    ask: str
    cue: str
    letters: str = ""
    named: str | None = None

    def instruction(self, form: str) -> str:
        """What is to be done, in a form."""
        if form == "letters":
            return f"{self.ask} {self.letters}"
        if form == "named" and self.named is not None:
            return self.named
        return self.ask


KNOWLEDGE = {
    "p1": Wording(
        ask="Savolning toʻgʻri javobini toping.",
        letters="Faqat toʻgʻri javobning harfini yozing.",
        cue="Javob:",
    ),
    "p2": Wording(
        ask="Quyidagi test topshirigʻini bajaring.",
        letters="Javob sifatida toʻgʻri variantning harfini koʻrsating.",
        cue="Toʻgʻri javob:",
    ),
    "p3": Wording(
        ask="Savolni diqqat bilan oʻqing va unga javob bering.",
        letters="Berilgan variantlardan eng mosini tanlab, harfini yozing.",
        cue="Savolning javobi:",
    ),
}
"""Wordings for questions of knowledge, whatever it is of."""


def asked(doc: Mapping[str, Any], wordings: Mapping[str, Wording], text: str, prompt_format: str, **fields: str) -> str:
    """A document's question, written out.

    wordings: by prompt. text: what the question is about, in the document's alphabet. fields: values for the braces
    of an instruction.
    """
    wording, form = wordings[doc["prompt"]], doc["form"]
    instruction = wording.instruction(form)
    for name, value in fields.items():
        instruction = instruction.replace(f"{{{name}}}", value)
    cue = LETTER_CUE if form == "letters" else wording.cue
    question = Prompt(instruction, text, cue).in_orthography(doc["orthography"])
    return render(question, prompt_format)


def with_options(text: str, doc: Mapping[str, Any]) -> str:
    """A text with a document's choices below it: lettered, listed, or not at all, as its form wants."""
    if doc["form"] == "letters":
        lines = [f"{letter}) {choice}" for letter, choice in zip(OPTION_LETTERS, doc["choices"], strict=False)]
    elif doc["form"] == "named":
        lines = [f"– {choice}" for choice in doc["choices"]]
    else:
        lines = []
    return "\n".join([text, *lines])


def offered(doc: Mapping[str, Any]) -> list[str]:
    """What may be answered: the letters of a document's choices, or the choices."""
    if doc["form"] == "letters":
        return list(OPTION_LETTERS[: len(doc["choices"])])
    return list(doc["choices"])


def titled(doc: Mapping[str, Any], word: str, text: str) -> str:
    """ "Matn: …", the word in the document's alphabet."""
    return f"{convert(word, doc['orthography'])}: {text}"
