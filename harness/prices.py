"""What a call costs: a dated table, the worst that a call may come to, and what it probably will.

A table, as prices.yaml has it:

    as_of: "2026-11-20"
    batch_discount: 0.5
    models:
      gpt-4o: {input: 2.50, output: 10.00, cached_input: 1.25}

A token is at least one byte, so that a request's bytes bound its tokens from above whatever the tokenizer. What it
probably has is measured: `o200k_base`, the tokenizer of GPT-4o, takes 2.87 characters of Uzbek a token in Latin, 2.50
in Cyrillic and 2.75 in the alphabet of 2026, and 4 of English (the texts of uz_core and of this project's pages).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from harness.config import build, read_yaml
from harness.errors import DataError, UsageError

TABLE = Path(__file__).with_name("prices.yaml")

CHARACTERS_PER_TOKEN = {"latin": 2.87, "cyrillic": 2.50}
ENGLISH = 4.0
"""Characters a token of English prose."""

MESSAGE_TOKENS = 16
"""More than any server adds to a message for its role and marks."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call, as the server counted them. cached: of the input, those at the lower price."""

    input: int
    output: int
    cached: int = 0


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars a million tokens. cached_input: None where it costs what other input costs."""

    input: float
    output: float
    cached_input: float | None = None

    def __post_init__(self) -> None:
        if min(self.input, self.output, self.cached_input or 0.0) < 0:
            raise UsageError("A price is below 0; expected US dollars a million tokens.")

    def usd(self, usage: Usage) -> float:
        """What a call costs."""
        cached = self.input if self.cached_input is None else self.cached_input
        return (
            (usage.input - usage.cached) * self.input + usage.cached * cached + usage.output * self.output
        ) / 1_000_000

    def scaled(self, factor: float) -> Price:
        """The same price times a factor, as a batch has it."""
        cached = None if self.cached_input is None else self.cached_input * factor
        return Price(self.input * factor, self.output * factor, cached)


FREE = Price(0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Prices:
    """A table of prices, and when it was true."""

    as_of: str
    models: dict[str, Price]
    batch_discount: float = 0.5

    def of(self, model: str, base_url: str | None = None) -> Price:
        """The price of a model. One that the table lacks is free on a server of this machine, and refused elsewhere.

        Raises UsageError: without a price no cap on the cost can be kept.
        """
        names = [name for name in self.models if model == name or model.startswith(f"{name}-")]
        if names:
            return self.models[max(names, key=len)]
        if base_url and is_local(base_url):
            return FREE
        raise UsageError(
            f"The price of {model!r} isn't known (priced: {', '.join(sorted(self.models))}). "
            "Write it into a file and name it: --prices FILE (see harness/prices.yaml)."
        )


def is_local(base_url: str) -> bool:
    """Whether a server is on this machine."""
    return urlsplit(base_url).hostname in ("localhost", "127.0.0.1", "::1", "0.0.0.0")


def read_prices(path: Path | None = None) -> Prices:
    """The table that ships with the package, or another of its form.

    Raises DataError, UsageError.
    """
    source = path or TABLE
    document = read_yaml(source)
    models = document.get("models")
    if not isinstance(models, dict) or not all(isinstance(each, dict) for each in models.values()):
        raise DataError(source, "expected the key 'models': a model's name to {input: …, output: …}")
    priced = {str(name): build(Price, each, source=f"{source}: {name}") for name, each in models.items()}
    discount = document.get("batch_discount", 0.5)
    if not isinstance(discount, (int, float)) or not 0 < discount <= 1:
        raise DataError(source, f"batch_discount {discount!r}, expected the share of the price that a batch costs")
    return Prices(str(document.get("as_of", "")), priced, float(discount))


def most_tokens(texts: list[str]) -> int:
    """An upper bound of the tokens of messages and schemas: their bytes, and what a server adds."""
    return sum(len(text.encode("utf-8", "surrogatepass")) + MESSAGE_TOKENS for text in texts)


def likely_tokens(text: str) -> float:
    """About how many tokens an Uzbek text has: by its letters, whose alphabet says most."""
    if not text:
        return 0.0
    cyrillic = sum("\u0400" <= mark <= "\u04ff" for mark in text)
    letters = sum(mark.isalpha() for mark in text) or 1
    share = cyrillic / letters
    per_token = share * CHARACTERS_PER_TOKEN["cyrillic"] + (1 - share) * CHARACTERS_PER_TOKEN["latin"]
    return len(text) / per_token
