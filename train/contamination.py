"""Which eval items stand in training rows: planted, transliterated, retyped with other marks, or with words changed.

What an item is known by, from the most to the least telling:

    13 words in a row           of any of its texts of 60 letters and more
    48 % of its runs of letters of such a text: the text to label, the passage, the article, a reference, or the
                                question together with its choices
    70 %                        of a shorter text, or of a question, where that is asked without a passage
    40 %                        of a question, where the row holds its answer too

Runs are of 6 letters, must stand within one and a half times the item's length, and don't count where they stand in
more than 16 items. A question on a passage needs its answer: "Xabarga qaysi sarlavha eng mos keladi?" is anybody's.
Worked examples are no items: they are shown with their answers. Nor are hub splits that aren't asked.

The shares were chosen by measuring. Of the 60-letter texts of uz_core with every fifth word replaced the least alike
keeps 50 %; of some 14,000 rows of other Uzbek texts the likest has 38 % of one, and 46 % of a question.
"""

from __future__ import annotations

import os
from collections import defaultdict
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
from train.shingles import Hashes, Places, Texts, mixed

GRAM = 6
RUN = 13
LONG = 60
OF_TEXT, OF_QUESTION, OF_SHORT, WITH_ANSWER = 0.45, 0.55, 0.7, 0.5
"""Shares of a text's runs of letters that give its item away."""

COMMON = 16
"""Items in which a run of letters may stand and still be one's own."""

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
    """A part in the index: text and answers as skeletons, whose it is, and how many runs of letters it has."""

    text: str
    answers: tuple[str, ...]
    least: float
    owners: tuple[tuple[str, str], ...]
    n_grams: int


class _Lookup:
    """Sorted keys and what each belongs to."""

    def __init__(self, keys: Hashes, values: Places):
        order = np.argsort(keys, kind="stable")
        self._values = values[order]
        self._keys, self._firsts, self._counts = np.unique(keys[order], return_index=True, return_counts=True)
        # Most of what is looked up isn't there: a table of bits says so without a search.
        self._maybe = np.zeros(1 << 22, bool)
        self._maybe[self._slot(self._keys)] = True

    def find(self, keys: Hashes) -> tuple[Places, Places]:
        """(place in `keys`, value) of all that is found."""
        places = np.flatnonzero(self._maybe[self._slot(keys)])
        if not len(self._keys) or not len(places):
            return np.empty(0, np.int64), np.empty(0, np.int64)
        found = np.minimum(np.searchsorted(self._keys, keys[places]), len(self._keys) - 1)
        there = self._keys[found] == keys[places]
        places, found = places[there], found[there]
        counts = self._counts[found]
        nth = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return np.repeat(places, counts), self._values[np.repeat(self._firsts[found], counts) + nth]

    @staticmethod
    def _slot(keys: Hashes) -> NDArray[np.intp]:
        return (mixed(keys) >> np.uint64(42)).astype(np.intp)


class Index:
    """The items of tasks, to be looked for in rows.

    documents: each task's, as its items.jsonl or its `load` has them.
    untold: (task, item) of which no text is long enough.
    """

    def __init__(self, documents: Mapping[str, Iterable[Mapping[str, Any]]]):
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
        grams, numbers = _own_grams(skeletons, list(groups.values()))
        sizes = np.bincount(numbers, minlength=len(owners))
        self._known = [
            _Known(skeletons[number], tuple(Texts(part.answers)), part.least, tuple(each), int(sizes[number]))
            for number, (part, each) in enumerate(owners.items())
        ]
        self._enough = sizes * [part.lowest for part in owners]
        told = sizes >= FEWEST
        self._grams = _Lookup(grams[told[numbers]], numbers[told[numbers]])
        hashes, of = skeletons.runs(RUN)
        whole = (skeletons.words() >= RUN)[of]
        self._runs = _Lookup(hashes[whole], of[whole])
        known = {owner for each, enough in zip(self._known, told, strict=True) if enough for owner in each.owners}
        self.untold = tuple(owner for owner in items if owner not in known)

    def find(self, rows: Texts) -> dict[int, list[Hit]]:
        """The items in each row that holds any, the likest first, one a task."""
        candidates = self._alike(rows)
        hashes, owners = rows.runs(RUN)
        places, known = self._runs.find(hashes)
        with_run = set(zip(owners[places].tolist(), known.tolist(), strict=True))
        found: dict[int, dict[str, Hit]] = defaultdict(dict)
        for row, number in sorted(candidates.keys() | with_run):
            text, each = rows[row], self._known[number]
            share = self._share(candidates[row, number], number) if (row, number) in candidates else 0.0
            n_words = _longest_run(text, each.text) if (row, number) in with_run else 0
            if not (n_words or share >= each.least or (share >= WITH_ANSWER and _holds(text, each.answers))):
                continue
            for task, item in each.owners:
                hit = Hit(task, item, round(share, 4), n_words)
                before = found[row].setdefault(task, hit)
                if (hit.share, hit.n_words) > (before.share, before.n_words):
                    found[row][task] = hit
        return {row: sorted(hits.values(), key=lambda hit: (-hit.share, hit.task)) for row, hits in found.items()}

    def _alike(self, rows: Texts) -> dict[tuple[int, int], list[tuple[int, int]]]:
        """By (row, known text): (place, run of letters) of all that they share, where it may be enough."""
        grams = rows.grams(GRAM)
        places, known = self._grams.find(grams)
        pairs = rows.owners(places) * len(self._known) + known
        order = np.lexsort((places, pairs))
        pairs, places, known = pairs[order], places[order], known[order]
        starts = np.flatnonzero(np.append(True, pairs[1:] != pairs[:-1])) if len(pairs) else np.empty(0, np.int64)
        ends = np.append(starts[1:], len(pairs))
        # Runs that repeat in a row count more than once: no fewer than are shared.
        enough = ends - starts >= self._enough[known[starts]]
        found = {}
        for start, end in zip(starts[enough].tolist(), ends[enough].tolist(), strict=True):
            row, number = divmod(int(pairs[start]), len(self._known))
            found[row, number] = list(zip(places[start:end].tolist(), grams[places[start:end]].tolist(), strict=True))
        return found

    def _share(self, shared: Sequence[tuple[int, int]], number: int) -> float:
        """The most of a known text's runs of letters that stand within one and a half times its length."""
        width = 1.5 * len(self._known[number].text) + 20
        inside: dict[int, int] = defaultdict(int)
        best = first = 0
        for place, gram in shared:
            inside[gram] += 1
            while shared[first][0] < place - width:
                gone = shared[first][1]
                inside[gone] -= 1
                if not inside[gone]:
                    del inside[gone]
                first += 1
            best = max(best, len(inside))
        return best / self._known[number].n_grams


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


_NO_TEXTS = frozenset("id group slice label question choices answer answers orthography prompt form".split())


def _own_grams(skeletons: Texts, groups: Sequence[str]) -> tuple[Hashes, Places]:
    """(run of letters, text) of all that stand in few groups; groups: each text's."""
    grams = skeletons.grams(GRAM)
    owners = skeletons.owners(np.arange(len(grams)))
    whole = skeletons.owners(np.arange(len(grams)) + GRAM - 1) == owners
    # A run takes 36 bits of 64.
    pairs = np.unique(grams[whole] << _OWNER_BITS | owners[whole].astype(np.uint64))
    grams, owners = pairs >> _OWNER_BITS, (pairs & ((np.uint64(1) << _OWNER_BITS) - np.uint64(1))).astype(np.int64)
    _, group = np.unique(np.array(groups), return_inverse=True)
    in_groups = np.unique(grams << _OWNER_BITS | group[owners].astype(np.uint64)) >> _OWNER_BITS
    each, counts = np.unique(in_groups, return_counts=True)
    own = np.isin(grams, each[counts <= COMMON])
    return grams[own], owners[own]


_OWNER_BITS = np.uint64(28)


def _holds(row: str, answers: Iterable[str]) -> bool:
    return any(f" {answer} " in f" {row} " for answer in answers if answer)


def _longest_run(row: str, known: str) -> int:
    """Words of the longest run of words that two skeletons share."""
    one, two = row.split(), known.split()
    return SequenceMatcher(None, one, two, autojunk=False).find_longest_match().size


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
