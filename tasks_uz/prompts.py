"""The one renderer of prompts, for training, evaluation and chat.

A question is a Prompt; a format says how it is written out. What an adapter was trained on, it is asked
in: both come from here, so they can't drift apart.

    plain     Matn qaysi mavzuga oid? …          alpaca    ### Instruction:
                                                           Matn qaysi mavzuga oid? …
              Matn: Poyezd bugun kechikdi.
              Mavzu: ▁                                     ### Input:
                                                           Matn: Poyezd bugun kechikdi.

                                                           ### Response:
                                                           ▁

`chat` writes the question without cue or headings; the tokenizer's own template puts the roles around it.
The headings of `alpaca` are those of Stanford Alpaca (https://github.com/tatsu-lab/stanford_alpaca), without
its two English sentences, and stay Latin in every orthography: they are the format, not the question.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tasks_uz.text import convert

FORMATS = ("plain", "alpaca", "chat")

TARGET_DELIMITER = {"plain": " ", "alpaca": "", "chat": ""}
"""What stands between a rendered prompt and its answer."""

STOP = {"plain": (), "alpaca": ("### ",), "chat": ()}
"""Where an answer in this format surely ends, beside the task's own stop strings."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One question to a model.

    instruction: what to do. input: the text it is done to, or empty.
    cue: the last words of the plain format, which the answer follows ("Mavzu:").
    """

    instruction: str
    input: str = ""
    cue: str = ""

    def in_orthography(self, orthography: str) -> Prompt:
        """The same question with its instruction and cue transliterated; the input is taken as it is."""
        return replace(self, instruction=convert(self.instruction, orthography), cue=convert(self.cue, orthography))


def render(prompt: Prompt, prompt_format: str = "plain") -> str:
    """Writes a prompt out, up to where the answer begins; TARGET_DELIMITER comes in between.

    Raises ValueError for an unknown format.
    """
    if prompt_format == "plain":
        parts = [prompt.instruction, prompt.input]
        text = "\n\n".join(part for part in parts if part)
        return f"{text}\n{prompt.cue}" if prompt.cue else text
    if prompt_format == "alpaca":
        middle = f"### Input:\n{prompt.input}\n\n" if prompt.input else ""
        return f"### Instruction:\n{prompt.instruction}\n\n{middle}### Response:\n"
    if prompt_format == "chat":
        return "\n\n".join(part for part in (prompt.instruction, prompt.input) if part)
    raise ValueError(f"prompt format {prompt_format!r} is unknown; there are {', '.join(FORMATS)}")


def render_row(instruction: str, input: str, output: str, prompt_format: str = "alpaca") -> tuple[str, str]:
    """A training row as (prompt, completion), written as evaluation writes it.

    The loss falls on the completion alone; the end-of-sequence token is the trainer's to add.
    """
    prompt = render(Prompt(instruction, input), prompt_format)
    return prompt, TARGET_DELIMITER[prompt_format] + output
