"""Which eval items stand in training rows: planted, transliterated, retyped with other marks, or with words changed.

What an item is known by, from the most to the least telling:

    13 words in a row             of any of its texts
    0.42 of its runs of letters   of a text of 60 letters and more: to label, a passage, an article, a reference; and of
                                  a question where the row holds its answer too
    0.55                          of a question of 60 letters and more, or of a question together with its choices
    0.7                           of a shorter text, or a shorter question that is asked without a passage

Runs are of 6 letters and stand within one and a half times the text's length. So much must be shared of all of them,
and of those that stand in no more than 16 items. A short question on a passage needs its answer: "Xabarga qaysi
sarlavha eng mos keladi?" is anybody's. Worked examples are no items, since they are shown with their answers; nor are
the splits of hub data that aren't asked.

The shares were chosen by measuring: texts of uz_core in which every fifth word was replaced keep 0.45 and more, while
of 18,217 other Uzbek rows the likest shares 0.36 of a text, 0.47 of a long question, 0.57 of a short one, and 0.36 of a
question whose answer it holds.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.records import Record
from tasks_uz import catalog
from tasks_uz.catalog import TaskInfo
from tasks_uz.check import strings
from tasks_uz.data import MIRROR_VARIABLE, MirrorError, Row, read_items
from train.shingles import Hashes, Places, Texts

GRAM = 6
RUN = 13
LONG = 60
OF_TEXT, OF_QUESTION, OF_SHORT, WITH_ANSWER = 0.42, 0.55, 0.7, 0.42
"""Shares of a text's runs of letters that give its item away."""

COMMON = 16
"""Items in which a run of letters may stand and still be one's own."""

SLOT_BITS = 20
TABLE = 1 << 21
"""Counts that are held at once."""

FEWEST = 12
"""Runs of letters of its own that a text must have to be told at all."""


@dataclass(frozen=True, slots=True)
class Hit(Record):
    """An item in a row. share: of its runs of letters; n_words: in a row, 0 for less than 13."""

    task: str
    item: str
    share: float
    n_words: int


@dataclass(frozen=True, slots=True)
class _Part:
    """A text that an item is known by. least: the share that gives it away; a lower one where an answer stands by."""

    text: str
    least: float
    answers: tuple[str, ...] = ()

    @property
    def lowest(self) -> float:
        return min(self.least, WITH_ANSWER) if self.answers else self.least


@dataclass(frozen=True, slots=True)
class _Known:
    """A part in the index: text and answers as skeletons, whose it is, its runs of letters and those of its own."""

    text: str
    answers: tuple[str, ...]
    least: float
    owners: tuple[tuple[str, str], ...]
    grams: Counter[int]
    own: frozenset[int]
    n: int
    n_own: int

    def share(self, grams: Sequence[int]) -> float:
        """The most of its runs of letters that stand close together in a row: of all, or of its own, the less.

        By its own alone a name would give away a question about the name's spelling; by all, the words of asking.
        """
        there = [(place, gram) for place, gram in enumerate(grams) if gram in self.grams]
        inside = Counter[int]()
        best, first, n, n_own = 0.0, 0, 0, 0
        for place, gram in there:
            inside[gram] += 1
            if inside[gram] <= self.grams[gram]:
                n, n_own = n + 1, n_own + (gram in self.own)
            while there[first][0] < place - 1.5 * self.n - 20:
                gone = there[first][1]
                if inside[gone] <= self.grams[gone]:
                    n, n_own = n - 1, n_own - (gone in self.own)
                inside[gone] -= 1
                first += 1
            best = max(best, min(n / self.n, n_own / self.n_own))
        return best


class _Lookup:
    """Keys and the values that each has: a hash table, a million keys at a time."""

    def __init__(self, keys: Hashes, values: NDArray[np.integer]):
        each, numbers, self._counts = np.unique(keys, return_inverse=True, return_counts=True)
        self._values = values[np.argsort(numbers, kind="stable")].astype(np.int64)
        self._firsts = np.cumsum(self._counts) - self._counts
        # Keys of one slot stand in a row, from where the slot says.
        self._order = np.argsort(_slots(each), kind="stable")
        self._keys, slots = each[self._order], _slots(each)[self._order]
        self._table = np.full(1 << SLOT_BITS, -1, np.int32)
        self._table[slots[::-1]] = np.arange(len(slots))[::-1]
        self._deepest = int(np.bincount(slots, minlength=1).max())

    def find(self, keys: Hashes) -> tuple[Places, Places]:
        """(place in `keys`, value) of all that is found."""
        firsts = self._table[_slots(keys)]
        places = np.flatnonzero(firsts >= 0)
        wanted, firsts = keys[places], firsts[places]
        found = np.full(len(places), -1, np.int64)
        for depth in range(self._deepest):
            at = np.minimum(firsts + depth, len(self._keys) - 1)
            there = self._keys[at] == wanted
            found[there] = at[there]
        places, numbers = places[found >= 0], self._order[found[found >= 0]]
        counts = self._counts[numbers]
        nth = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return np.repeat(places, counts), self._values[np.repeat(self._firsts[numbers], counts) + nth]


def _slots(keys: Hashes) -> NDArray[np.intp]:
    return ((keys * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(64 - SLOT_BITS)).astype(np.intp)


class Index:
    """The items of tasks, to be looked for in rows.

    documents: each task's, as its items.jsonl or its `load` has them.
    tasks: those it holds. untold: (task, item) of which no text is long enough.
    """

    def __init__(self, documents: Mapping[str, Iterable[Mapping[str, Any]]]):
        self.tasks = tuple(documents)
        owners: dict[_Part, dict[tuple[str, str], None]] = defaultdict(dict)
        groups: dict[_Part, str] = {}
        items: dict[tuple[str, str], None] = {}
        for task, rows in documents.items():
            for row in rows:
                owner = (task, str(row["id"]))
                items[owner] = None
                for part in _parts(row):
                    owners[part][owner] = None
                    groups.setdefault(part, str(row.get("group") or row["id"]))
        skeletons = Texts(part.text for part in owners)
        grams, own, numbers = _grams(skeletons, list(groups.values()))
        borders = np.searchsorted(numbers, np.arange(len(owners) + 1))
        self._known = []
        for (part, each), text, first, last in zip(owners.items(), skeletons, borders, borders[1:], strict=False):
            mine, n_own = grams[first:last], int(own[first:last].sum())
            own_grams = frozenset(mine[own[first:last]].tolist())
            answers, count = tuple(Texts(part.answers)), Counter[int](mine.tolist())
            self._known.append(_Known(text, answers, part.least, tuple(each), count, own_grams, len(mine), n_own))
        told = np.array([len(each.own) >= FEWEST for each in self._known])
        # No fewer than so many must be found at all.
        self._enough = np.array([max(1, each.n_own) for each in self._known]) * [part.lowest for part in owners]
        keys = [(gram, number) for number, each in enumerate(self._known) if told[number] for gram in each.own]
        self._grams = _Lookup(*np.array(keys, np.uint64).reshape(-1, 2).T)
        hashes, of = skeletons.runs(RUN)
        whole = (skeletons.words() >= RUN)[of]
        self._runs = _Lookup(hashes[whole], of[whole])
        known = {owner for each, enough in zip(self._known, told, strict=True) if enough for owner in each.owners}
        self.untold = tuple(owner for owner in items if owner not in known)

    def find(self, rows: Texts) -> dict[int, list[Hit]]:
        """The items in each row that holds any, the likest first, one a task."""
        grams = rows.grams(GRAM)
        hashes, owners = rows.runs(RUN)
        places, known = self._runs.find(hashes)
        with_run = set(zip(owners[places].tolist(), known.tolist(), strict=True))
        found: dict[int, dict[str, Hit]] = defaultdict(dict)
        for row, number in sorted(with_run | self._alike(rows, grams)):
            text, each = rows[row], self._known[number]
            start = int(rows.starts[row])
            share = each.share(grams[start : start + len(text)].tolist())
            n_words = _longest_run(text, each.text) if (row, number) in with_run else 0
            if not (n_words or share >= each.least or (share >= WITH_ANSWER and _holds(text, each.answers))):
                continue
            for task, item in each.owners:
                hit = Hit(task, item, round(share, 4), n_words)
                before = found[row].setdefault(task, hit)
                if (hit.share, hit.n_words) > (before.share, before.n_words):
                    found[row][task] = hit
        return {row: sorted(hits.values(), key=lambda hit: (-hit.share, hit.task)) for row, hits in found.items()}

    def _alike(self, rows: Texts, grams: Hashes) -> set[tuple[int, int]]:
        """(row, known text) of all that may share enough: a run that repeats in a row counts each time."""
        places, known = self._grams.find(grams)
        owners, n = rows.owners(places), len(self._known)
        found: set[tuple[int, int]] = set()
        # Some rows at a time: a count for each row and known text.
        step = TABLE // max(1, n) + 1
        for first in range(0, len(rows), step):
            here = slice(*np.searchsorted(owners, (first, first + step)))
            counts = np.bincount((owners[here] - first) * n + known[here], minlength=step * n).reshape(step, n)
            row, number = np.nonzero(counts >= self._enough)
            found.update(zip((row + first).tolist(), number.tolist(), strict=True))
        return found


def _grams(skeletons: Texts, groups: Sequence[str]) -> tuple[Hashes, NDArray[np.bool_], Places]:
    """(run of letters, whether it stands in few groups, text) of all of them; groups: each text's."""
    grams = skeletons.grams(GRAM)
    places = np.arange(len(grams))
    numbers = skeletons.owners(places)
    whole = skeletons.owners(places + GRAM - 1) == numbers
    grams, numbers = grams[whole], numbers[whole]
    _, group = np.unique(np.array(groups), return_inverse=True)
    # A run takes 36 bits of 64.
    in_groups = np.unique(grams << np.uint64(28) | group[numbers].astype(np.uint64)) >> np.uint64(28)
    each, counts = np.unique(in_groups, return_counts=True)
    return grams, np.isin(grams, each[counts <= COMMON]), numbers


def _parts(row: Mapping[str, Any]) -> Iterator[_Part]:
    choices, answer, question = row.get("choices", []), row.get("answer"), row.get("question", "")
    if question:
        answers = row.get("answers") or ([choices[answer]] if isinstance(answer, int) and choices else [])
        alone = OF_QUESTION if len(question) >= LONG else OF_SHORT if not row.get("passage") else np.inf
        yield _Part(question, alone, tuple(answers))
    if choices:
        # In one piece: a choice by itself is a word that anybody writes.
        yield _Part(" ".join([question or row.get("text", ""), *choices]), OF_QUESTION)
    for key, value in row.items():
        if key not in _NO_TEXTS:
            for text in strings(value):
                yield _Part(text, OF_TEXT if len(text) >= LONG else OF_SHORT)


_NO_TEXTS = (
    "id",
    "group",
    "slice",
    "label",
    "question",
    "choices",
    "answer",
    "answers",
    *("orthography", "prompt", "form", "answer_in"),
)


def _holds(row: str, answers: Iterable[str]) -> bool:
    return any(f" {answer} " in f" {row} " for answer in answers if answer)


def _longest_run(row: str, known: str) -> int:
    """Words of the longest run of words that two skeletons share."""
    one, two = row.split(), known.split()
    return SequenceMatcher(None, one, two, autojunk=False).find_longest_match().size


def eval_index(mirror: str | os.PathLike[str] | None = None) -> tuple[Index, dict[str, str]]:
    """The items of every task that can be read here, and why the other tasks can't.

    mirror: of hub data; UZBENCH_MIRROR where None.
    """
    documents, unread = eval_documents(mirror)
    return Index(documents), unread


def eval_documents(mirror: str | os.PathLike[str] | None = None) -> tuple[dict[str, list[Row]], dict[str, str]]:
    """The documents of every task that can be read here, and of the others why not.

    mirror: of hub data; UZBENCH_MIRROR where None.
    """
    mirror = mirror or os.environ.get(MIRROR_VARIABLE)
    documents, unread = {}, {}
    for task in catalog.base_tasks():
        if not catalog.sources(task):
            documents[task.name] = read_items(catalog.items_folder(task) / "items.jsonl")
        elif not mirror:
            unread[task.name] = f"its data are on the model hub; {MIRROR_VARIABLE}=DIR names a mirror"
        else:
            try:
                documents[task.name] = _hub_documents(task, mirror)
            except MirrorError as error:
                unread[task.name] = str(error)
    return documents, unread


def _hub_documents(task: TaskInfo, mirror: str | os.PathLike[str]) -> list[Row]:
    load = import_module(f"tasks_uz.{task.path.parent.name}.utils").load
    return list(load(**{**catalog.read_yaml(task.path)["metadata"], "mirror": mirror})["test"])
