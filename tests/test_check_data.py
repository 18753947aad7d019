"""What check-data finds in training rows, each with the line that a person reads; oracles are plain Python."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import train.check
from harness.cli import run_command
from harness.errors import DataError, UnknownNameError
from tasks_uz.data import read_items
from tasks_uz.text import convert
from train.check import DataReport, Finding, check_data
from train.contamination import FEWEST, GRAM, Index, eval_documents, eval_index
from train.data import read_rows, tokenize
from train.duplicates import ALIKE, RUN, near_duplicates, sketches
from train.shingles import Texts

ROOT = Path(__file__).parent.parent
STARTER = ROOT / "train" / "data" / "starter_uz.jsonl"
DEMO = ROOT / "train" / "data" / "demo_uz.jsonl"

GOOD = {"instruction": "Shu shaharni taʼriflang.", "input": "", "output": "Xiva — koʻhna shahar, devorlari paxsadan."}


def row(**changed: str) -> bytes:
    return json.dumps({**GOOD, **changed}, ensure_ascii=False).encode()


def file_of(folder: Path, *lines: bytes) -> Path:
    path = folder / "rows.jsonl"
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def checked(path: Path, **options: Any) -> DataReport:
    return check_data(path, progress=False, **options)


def found(report: DataReport, kind: str) -> Finding:
    (finding,) = [each for each in (*report.errors, *report.warnings) if each.kind == kind]
    return finding


@pytest.fixture(scope="module")
def documents() -> dict[str, list[dict[str, Any]]]:
    return eval_documents()[0]


@pytest.fixture(scope="module")
def index(documents: dict[str, list[dict[str, Any]]]) -> Index:
    return Index(documents)


@pytest.fixture(autouse=True)
def index_once(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    """The index of the packaged tasks is made once for all tests; one of a mirror is made anew."""
    _, unread = eval_documents()
    monkeypatch.setattr(
        train.check, "eval_index", lambda: eval_index() if "UZBENCH_MIRROR" in os.environ else (index, unread)
    )


# ---------------------------------------------------------------- faults

BAD = {
    "not UTF-8": (b'{"instruction": "a\xff", "output": "b"}', "not UTF-8 (byte 18)"),
    "cut off": (b'{"instruction": "a", "output": "b', "not JSON: Unterminated string starting at (column 32)"),
    "two objects": (row() + row(output="Yana."), "not JSON: Extra data (column 112)"),
    "raw line break": (b'{"instruction": "a\tb", "output": "c"}', "not JSON: Invalid control character at (column 19)"),
    "array": (b'["a", "b"]', "expected a JSON object, saw list; the format is JSONL, one row a line"),
    "text alone": (b'"salom"', "expected a JSON object, saw str; the format is JSONL, one row a line"),
    "no instruction": (b'{"output": "a"}', "key 'instruction' is missing"),
    "no output": (b'{"instruction": "a"}', "key 'output' is missing"),
    "misspelt key": (b'{"instruction": "a", "ouput": "b"}', "key 'output' is missing"),
    "number": (b'{"instruction": "a", "output": 5}', "'output' isn't text: 5"),
    "null": (b'{"instruction": "a", "input": null, "output": "b"}', "'input' isn't text: None"),
    "list": (b'{"instruction": "a", "output": ["b"]}', "'output' isn't text: ['b']"),
    "empty instruction": (row(instruction=""), "'instruction' is empty"),
    "blank output": (row(output=" \t"), "'output' is empty"),
    "half a surrogate": (
        b'{"instruction": "a", "output": "\\ud800"}',
        "'output' holds half a surrogate pair, which isn't text",
    ),
    "NUL byte": (row().replace(b"Xiva", b"Xi\0va"), "a NUL character; text has none, UTF-16 has many"),
    "escaped NUL": (row().replace(b"Xiva", b"Xi\\u0000va"), "a NUL character; text has none, UTF-16 has many"),
    "byte order mark": (b"\xef\xbb\xbf" + row(), "a byte order mark inside the file, as where files were joined"),
    "too long": (row(output="a" * (1 << 20)), "a line of 1,048,648 bytes, expected at most 1,048,576"),
}


@pytest.mark.parametrize("name", BAD)
def test_fault_is_one_line_with_its_number_and_what_is_seen(name: str, tmp_path: Path) -> None:
    line, says = BAD[name]
    path = file_of(tmp_path, row(), line, row(output="Buxoro — eski shahar."))
    report = checked(path)
    assert report.n_rows == 2
    assert [place.says for place in found(report, "schema").places] == [says]
    assert str(report.error()) == f"{path}:2: {says}. All of them: uzbench check-data {path}"


def test_all_faults_are_collected_and_the_first_is_told_with_their_number(tmp_path: Path) -> None:
    path = file_of(tmp_path, row(), *[line for line, _ in BAD.values()], b"{}", b"{}")
    report = checked(path)
    assert sum(finding.n for finding in report.errors) == len(BAD) + 2
    assert {place.line for finding in report.errors for place in finding.places} == set(range(2, len(BAD) + 4))
    assert str(report.error()).startswith(f"{path}:2: not UTF-8 (byte 18) (and {len(BAD) + 1} more faults). All of")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty, expected one JSON object a line"),
        (b"\n \n", "empty, expected one JSON object a line"),
        (b"[" + row() + b"]", "a JSON array, expected JSONL, one object a line"),
        (b'[\n{"instruction": "a"}\n]\n', "a JSON array, expected JSONL, one object a line"),
    ],
)
def test_file_that_is_no_jsonl_is_one_fault(content: bytes, says: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    report = checked(path)
    (finding,) = report.errors
    assert finding.n == 1
    assert str(report.error()).startswith(f"{path}: {says}")


def test_missing_file_and_directory_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such file; expected JSONL, one object a line$"):
        checked(tmp_path / "nowhere.jsonl")
    with pytest.raises(DataError, match=r"a directory, where a JSONL file was expected$"):
        checked(tmp_path)


def test_what_is_taken_is_what_training_reads(tmp_path: Path) -> None:
    path = file_of(
        tmp_path, b"\xef\xbb\xbf" + row(), b"", row(output="Ikki.") + b"\r", b'{"instruction":"a","output":"b"}'
    )
    report = checked(path)
    assert report.errors == ()
    assert report.n_rows == len(read_rows(path)) == 3


def test_report_comes_back_from_its_json(tmp_path: Path) -> None:
    report = checked(file_of(tmp_path, row(), row(), b"{}", row(output="<noinput>")))
    assert DataReport.from_dict(json.loads(json.dumps(report.to_dict()))) == report


def test_packaged_rows_have_no_finding_at_all() -> None:
    for path in (STARTER, DEMO):
        report = checked(path)
        assert (report.errors, report.warnings) == ((), ())


# ---------------------------------------------------------------- what a person should see


@pytest.mark.parametrize(
    "answer",
    [
        "Kechirasiz, men bu savolga yordam bera olmayman.",
        "Кечирасиз, мен бунга ёрдам бера олмайман.",
        "Keçirasiz, men bunga yordam bera olmayman.",
        "Kechirasiz, lekin bu so'rovni bajara olmayman.",
        "Men sun'iy intellekt modeliman, his-tuyg'um yo'q.",
        "Мен сунъий интеллект моделиман.",
        "Sunʼiy intellekt sifatida shaxsiy fikrim yoʻq.",
        "As an AI language model, I don't have feelings.",
        "I'm sorry, but I can't help with that.",
        "I’m unable to open links.",
        "Извините, я не могу ответить на этот вопрос.",
        "К сожалению, я не могу помочь.",
        "Как языковая модель, я не имею мнения.",
    ],
)
def test_refusal_is_found_in_three_languages_and_every_alphabet(answer: str, tmp_path: Path) -> None:
    report = checked(file_of(tmp_path, row(), row(instruction="Yordam bering.", output=answer)))
    assert [place.line for place in found(report, "refusal").places] == [2]


@pytest.mark.parametrize(
    "answer",
    [
        "Kechirasiz, ertaga kela olmayman, ishim chiqib qoldi.",
        "Sunʼiy intellekt kasalliklarni aniqlashda ham qoʻllanadi.",
        "Uzr soʻradi-yu, yordam berolmasligini aytdi.",
        "Извините за опоздание!",
    ],
)
def test_apology_of_a_person_is_no_refusal(answer: str, tmp_path: Path) -> None:
    assert not [each for each in checked(file_of(tmp_path, row(output=answer))).warnings if each.kind == "refusal"]


@pytest.mark.parametrize(
    ("changed", "left"),
    [
        ({"output": "Mana: TODO"}, "TODO"),
        ({"output": "Hurmatli [ism], xush kelibsiz."}, "[ism]"),
        ({"output": "Boshi […] oxiri."}, "[…]"),
        ({"output": "Ha.\n### Instruction:\nYana"}, "### Instruction"),
        ({"output": "Here is the text as requested: salom"}, "as requested:"),
        ({"output": "Output: salom"}, "Output:"),
        ({"output": "Salom<|im_end|>"}, "<|im_end|>"),
        ({"output": "None"}, "None"),
        ({"input": "<noinput>"}, "<noinput>"),
    ],
)
def test_left_over_of_generating_is_named(changed: dict[str, str], left: str, tmp_path: Path) -> None:
    finding = found(checked(file_of(tmp_path, row(), row(instruction="Ikkinchi.", **changed))), "left_over")
    assert [(place.line, place.says) for place in finding.places] == [(2, f"left over: {left!r}")]


@pytest.mark.parametrize(
    ("answer", "says"),
    [("Тoshkent katta", "two alphabets in 'Тoshkent'"), ("Бу xалқ ишлади", "two alphabets in 'xалқ'")],
)
def test_word_in_two_alphabets_is_found(answer: str, says: str, tmp_path: Path) -> None:
    assert found(checked(file_of(tmp_path, row(output=answer))), "mixed_alphabets").places[0].says == says


def test_cyrillic_ending_of_a_latin_name_is_no_mixture(tmp_path: Path) -> None:
    report = checked(file_of(tmp_path, row(output="Дўстимга Telegramга ёздим, кейин WiFiни ёқиб қўйдим.")))
    assert report.warnings == ()


def test_invisible_characters_other_languages_and_kinds_of_marks_are_counted(tmp_path: Path) -> None:
    path = file_of(
        tmp_path,
        row(output="Xiva\u200b shahri koʻhna."),
        row(instruction="Tarjima qiling.", output="The museum was closed and nobody could say why."),
        row(instruction="Uchinchi.", output="Bo'ldi, go'zal bog'lar, o'rik, to'y va cho'l."),
    )
    report = checked(path)
    assert found(report, "invisible").places[0].says == "an invisible character, U+200B"
    assert [place.line for place in found(report, "language").places] == [2]
    assert found(report, "marks").n == 1
    assert report.marks == {"'": 6, "ʻ": 1}


def test_answers_are_counted_by_alphabet(tmp_path: Path) -> None:
    answers = ["Oʻzbek", "Ўзбек", "Özbek", "sport", "Ўзбек xalqi", "42"]
    report = checked(file_of(tmp_path, *(row(instruction=str(n), output=text) for n, text in enumerate(answers))))
    assert report.alphabets == {"cyrillic": 1, "latin": 1, "latin2026": 1, "latin_any": 1, "mixed": 1, "none": 1}


# ---------------------------------------------------------------- rows that repeat


def test_row_written_twice_is_found_whatever_its_case_spaces_and_marks(tmp_path: Path) -> None:
    path = file_of(
        tmp_path,
        row(),
        row(output="Boshqa javob."),
        row(**{key: text.upper().replace("ʻ", "'") + " " for key, text in GOOD.items()}),
    )
    place = found(checked(path), "duplicate").places[0]
    assert (place.line, place.earlier, place.says) == (3, 1, "the same as line 1")


def test_question_with_two_answers_is_a_conflict_and_not_a_double(tmp_path: Path) -> None:
    path = file_of(
        tmp_path, row(input="4", output="Toʻrt."), row(input="5", output="Besh."), row(input="4", output="Olti.")
    )
    report = checked(path)
    place = found(report, "conflict").places[0]
    assert (place.line, place.says) == (3, "asks what line 1 asks, and answers otherwise")
    assert [each.kind for each in report.warnings] == ["conflict"]


@pytest.mark.parametrize("orthography", ["cyrillic", "latin2026"])
def test_row_in_another_alphabet_is_a_near_double(orthography: str, tmp_path: Path) -> None:
    path = file_of(tmp_path, row(), row(**{key: convert(text, orthography) for key, text in GOOD.items()}))
    assert found(checked(path), "near_duplicate").places[0].says == "1.00 of line 1"


def varied(seed: int = 3) -> list[str]:
    """The starter rows, each eight times with some words changed."""
    draw = random.Random(seed)
    texts = [f"{each.instruction} {each.input} {each.output}" for each in read_rows(STARTER)]
    vocabulary = [word for text in texts for word in text.split()]
    made = []
    for text in texts:
        for _ in range(8):
            words = text.split()
            for _ in range(draw.randint(0, max(1, len(words) // 4))):
                words[draw.randrange(len(words))] = draw.choice(vocabulary)
            made.append(" ".join(words))
    draw.shuffle(made)
    return made


def test_near_doubles_are_those_of_a_comparison_of_every_pair() -> None:
    texts = Texts(varied())
    words = [text.split() for text in texts]
    # The oracle knows no hashes: sets of three words.
    runs = [{tuple(each[at : at + RUN]) for at in range(len(each) - RUN + 1)} or {tuple(each)} for each in words]

    def jaccard(one: int, two: int) -> float:
        return len(runs[one] & runs[two]) / len(runs[one] | runs[two])

    wanted = {two for one, two in combinations(range(len(runs)), 2) if jaccard(one, two) >= ALIKE}
    n_compared = 0

    def compare(pairs: Any) -> Any:
        nonlocal n_compared
        n_compared += len(pairs)
        return np.array([jaccard(*pair) for pair in pairs.tolist()])

    got = {again: (earlier, share) for again, earlier, share in near_duplicates(sketches(texts), compare)}
    assert all(earlier < again and share >= ALIKE for again, (earlier, share) in got.items())
    # Hashes may miss one in a thousand pairs; each of these rows has several.
    assert len(wanted) > 200
    assert set(got) <= wanted
    assert len(wanted - set(got)) <= 1
    assert n_compared < 10 * len(wanted)


def test_runs_of_words_and_letters_are_those_of_plain_python() -> None:
    texts = Texts([*varied()[:50], "", "bir", "bir ikki", "!!!", "bir ikki uch toʻrt"])
    hashes, owners = texts.runs(3)
    of_run: dict[tuple[str, ...], set[int]] = {}
    at = 0
    for number, text in enumerate(texts):
        words = text.split()
        plain = [tuple(words[place : place + 3]) for place in range(max(1, len(words) - 2))] if words else []
        assert owners[at : at + len(plain)].tolist() == [number] * len(plain)
        for run, each in zip(plain, hashes[at : at + len(plain)].tolist(), strict=True):
            of_run.setdefault(run, set()).add(each)
        at += len(plain)
        grams = texts.grams(GRAM)[texts.starts[number] :][: max(0, len(text) - GRAM + 1)].tolist()
        assert len(set(grams)) == len({text[place : place + GRAM] for place in range(len(grams))})
    assert at == len(hashes)
    # One run, one hash; two runs, two.
    assert all(len(each) == 1 for each in of_run.values())
    assert len({each for found in of_run.values() for each in found}) == len(of_run)


def test_skeleton_of_every_item_is_one_in_three_alphabets(documents: dict[str, list[dict[str, Any]]]) -> None:
    texts = [text for rows in documents.values() for each in rows for text in item_texts(each)]
    plain = list(Texts(texts))
    for orthography in ("cyrillic", "latin2026"):
        assert list(Texts(convert(text, orthography) for text in texts)) == plain


def item_texts(item: dict[str, Any]) -> list[str]:
    values = [value for key, value in item.items() if key not in ("id", "group", "slice")]
    return [
        text for value in values for text in (value if isinstance(value, list) else [value]) if isinstance(text, str)
    ]


# ---------------------------------------------------------------- eval items in rows


def as_row(item: dict[str, Any]) -> str:
    """An item as a training row would hold it: question, text, choices and answer."""
    choices = item.get("choices", [])
    asked = [
        item.get("question") or item.get("instruction") or "Matnni oʻqib, javob bering.",
        item.get("text") or item.get("passage") or item.get("article") or item.get("input") or "",
    ]
    options = [f"{letter}) {choice}" for letter, choice in zip("ABCD", choices, strict=False)]
    answers = (
        [choices[item["answer"]]]
        if choices
        else item.get("answers") or item.get("summaries") or [item.get("label", "")]
    )
    return "\n".join([*asked, *options, answers[0]])


def fifth_changed(text: str) -> str:
    draw = random.Random(text)
    vocabulary = [word for each in read_rows(DEMO) for word in each.input.split()]
    words = text.split()
    words[4::5] = [draw.choice(vocabulary) for _ in words[4::5]]
    return " ".join(words)


WAYS: dict[str, Callable[[str], str]] = {
    "verbatim": lambda text: text,
    "cyrillic": lambda text: convert(text, "cyrillic"),
    "latin2026": lambda text: convert(text, "latin2026"),
    "U+0027": lambda text: text.replace("ʻ", "'").replace("ʼ", "'"),
    "U+2018, capitals": lambda text: text.replace("ʻ", "‘").replace("ʼ", "’").upper(),
    "no marks, no punctuation": lambda text: re.sub(r"[^\w\s]|[ʻʼ]", "", text),
    "every fifth word changed": fifth_changed,
}


@pytest.mark.parametrize("way", WAYS)
def test_every_item_is_found_where_it_is_planted(
    way: str, documents: dict[str, list[dict[str, Any]]], index: Index
) -> None:
    missed, n = [], 0
    for task, items in documents.items():
        hits = index.find(Texts(WAYS[way](as_row(item)) for item in items))
        n += len(items)
        for number, item in enumerate(items):
            same = {each["id"] for each in items if each.get("group", each["id"]) == item.get("group", item["id"])}
            if not any(hit.task == task and hit.item in same for hit in hits.get(number, [])):
                missed.append(item["id"])
    assert n > 800
    assert missed == []


def test_no_item_is_too_short_to_be_told(index: Index) -> None:
    assert index.untold == ()


def test_item_of_a_word_is_named_as_too_short() -> None:
    index = Index(
        {"uz_demo": [{"id": "a", "text": "Kitob"}, {"id": "b", "text": "Kecha Xivada katta koʻrgazma ochildi."}]}
    )
    assert index.untold == (("uz_demo", "a"),)
    assert len("Kitob") < FEWEST


def test_worked_examples_are_no_items(index: Index) -> None:
    for folder in ("uz_topic", "uz_sentiment", "uz_lang", "uz_qa"):
        shots = read_items(ROOT / "tasks_uz" / folder / "shots.jsonl")
        assert index.find(Texts(map(as_row, shots))) == {}


def test_thirteen_words_of_an_article_are_enough_and_twelve_are_not(
    documents: dict[str, list[dict[str, Any]]], index: Index
) -> None:
    words = documents["uz_summ"][0]["article"].split()
    around = "Yozgi taʼtil haqida bir hikoya: "
    (hit, *_) = index.find(Texts([around + " ".join(words[20:33])]))[0]
    assert (hit.item, hit.n_words >= 13) == ("summ-001", True)
    assert index.find(Texts([around + " ".join(words[20:30])])) == {}


def test_generic_question_on_a_passage_needs_its_answer(
    documents: dict[str, list[dict[str, Any]]], index: Index
) -> None:
    item = next(
        each for each in documents["uz_reading"] if each["question"] == "Xabarga qaysi sarlavha eng mos keladi?"
    )
    asked, answer = item["question"], item["choices"][item["answer"]]
    assert index.find(Texts([f"{asked} Bugun yomgʻir yogʻdi. A) Yomgʻir B) Qor"])) == {}
    assert index.find(Texts([f"{asked} {answer}"]))[0][0].item == item["id"]


def test_planted_item_is_an_error_with_line_item_and_task_until_it_is_allowed(tmp_path: Path) -> None:
    topic = read_items(ROOT / "tasks_uz" / "uz_topic" / "items.jsonl")[2]
    path = file_of(tmp_path, row(), row(input=convert(topic["text"], "cyrillic")))
    report = checked(path)
    place = found(report, "contaminated").places[0]
    assert place.hit is not None
    assert (place.line, place.hit.task, place.hit.item) == (2, "uz_topic", topic["id"])
    assert str(report.error()).startswith(f"{path}:2: holds item {topic['id']} of uz_topic (")
    allowed = checked(path, allow=("uz_topic",))
    assert allowed.error() is None
    assert [each.kind for each in allowed.warnings] == ["contaminated"]
    assert checked(path, allow=("uz_qa",)).error() is not None
    with pytest.raises(UnknownNameError, match="Did you mean 'uz_topic'"):
        checked(path, allow=("uz_topik",))


def test_hub_items_are_looked_for_where_a_mirror_has_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "Kapitan yelkanlarni tushirishni buyurdi, chunki kechqurun dengizda kuchli boʻron kutilayotgan edi."
    split = tmp_path / "mirror" / "Davlan" / "sib200" / "uzn_Latn"
    split.mkdir(parents=True)
    for name, said in (("test", text), ("train", GOOD["output"])):
        document = {"index_id": 7, "category": "travel", "text": said}
        (split / f"{name}.jsonl").write_text(json.dumps(document) + "\n", encoding="utf-8")
    path = file_of(tmp_path, row(), row(input=text))
    before = checked(path)
    assert before.errors == ()
    assert "uz_sib200" in before.unread
    monkeypatch.setenv("UZBENCH_MIRROR", str(tmp_path / "mirror"))
    report = checked(path)
    # The row of the train split, which line 1 holds, is nobody's item.
    assert [(place.line, place.hit and place.hit.item) for place in found(report, "contaminated").places] == [
        (2, "sib200-7")
    ]
    assert "mirror" in report.unread["uz_belebele"]


# ---------------------------------------------------------------- tokens


def test_lengths_and_what_is_left_out_are_those_of_training(tokenizer_directory: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_directory)
    data = tokenize(read_rows(STARTER), tokenizer, prompt_format="alpaca", max_length=10**6, source=STARTER)
    lengths = sorted(len(each.ids) for each in data.rows)
    cut = lengths[len(lengths) // 2]
    kept = tokenize(read_rows(STARTER), tokenizer, prompt_format="alpaca", max_length=cut, source=STARTER)
    report = checked(STARTER, tokenizer=tokenizer, max_length=cut)
    assert report.lengths is not None
    assert report.lengths.mean == pytest.approx(sum(lengths) / len(lengths), abs=0.05)
    assert (report.lengths.max, report.lengths.n_over) == (lengths[-1], kept.dropped)
    assert found(report, "dropped").n == sum(kept.dropped.values())
    assert 2 < report.lengths.tokens_per_word < 6


def test_special_token_and_rows_that_all_are_too_long_are_errors(tmp_path: Path, tokenizer_directory: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_directory)
    path = file_of(tmp_path, row(), row(output=f"Salom {tokenizer.eos_token} yana"))
    with pytest.raises(DataError) as raised:
        tokenize(read_rows(path), tokenizer, prompt_format="alpaca", max_length=512, source=path)
    assert str(checked(path, tokenizer=tokenizer).error()).startswith(str(raised.value))
    report = checked(file_of(tmp_path, row()), tokenizer=tokenizer, max_length=16)
    assert "no row fits into max_length 16, the shortest has" in str(report.error())


# ---------------------------------------------------------------- many rows


def test_processes_find_what_one_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [row(instruction=f"{n}. {text}", output="Ha.") for n, text in enumerate(varied() * 2)]
    lines[100], lines[3000] = b"{}", lines[20]
    path = file_of(tmp_path, *lines)
    monkeypatch.setattr(train.check, "BLOCK", 1 << 16)
    alone = checked(path)
    monkeypatch.setattr(train.check, "SMALL", 0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    assert checked(path) == alone
    assert (found(alone, "schema").n, found(alone, "duplicate").places[0].line) == (1, 3001)
    assert found(alone, "near_duplicate").n > 1000
    assert len(found(alone, "near_duplicate").places) == train.check.LISTED


def test_memory_does_not_follow_the_length_of_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows ten times as long take no more, once the blocks are as small."""
    monkeypatch.setattr(train.check, "BLOCK", 1 << 15)
    peaks = []
    for words in (40, 400):
        draw = random.Random(words)
        lines = [row(output=" ".join(f"soʻz{draw.randrange(10**6)}" for _ in range(words))) for _ in range(250)]
        path = file_of(tmp_path, *lines)
        checked(path)
        tracemalloc.start()
        checked(path)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert path.stat().st_size > 800_000
    assert peaks[1] < peaks[0] + 500_000


# ---------------------------------------------------------------- the command


def test_command_tells_findings_and_exits_by_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = file_of(tmp_path, row(), row(), b'{"instruction": "a"}')
    assert run_command(["check-data", str(path), "--out", str(tmp_path / "report.json")]) == 2
    said = capsys.readouterr()
    assert said.out == f"{tmp_path / 'report.json'}\n"
    assert f"{path}: 2 rows, training refuses this" in said.err
    assert "| key 'output' is missing | 1 | 3: key 'output' is missing |" in said.err
    assert "| rows written twice | 1 | 2: the same as line 1 |" in said.err
    assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["n_rows"] == 2
    assert run_command(["check-data", str(file_of(tmp_path, row(), row()))]) == 0


def test_json_is_one_document_with_its_schema(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["check-data", str(file_of(tmp_path, row(), b"{}")), "--json"]) == 2
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == 1
    assert document["errors"] == [
        {
            "kind": "schema",
            "what": "key 'instruction' is missing",
            "n": 1,
            "places": [{"line": 2, "says": "key 'instruction' is missing", "earlier": None, "hit": None}],
        }
    ]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--prompt-format", "chat"], "--prompt-format chat: expected one of alpaca, plain."),
        (["--allow", "uz_topik"], "Task 'uz_topik' is unknown. Did you mean 'uz_topic'? All tasks: uzbench tasks"),
    ],
)
def test_mistaken_option_is_one_line(
    options: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["check-data", str(file_of(tmp_path, row())), *options]) == 2
    assert capsys.readouterr().err == f"uzbench: {says}\n"


def test_text_of_a_row_moves_no_cursor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = file_of(tmp_path, row(output="\x1b[2J TODO"), b'{"instruction": "a", "output": ["\\u001b[2J"]}')
    run_command(["check-data", str(path)])
    assert "\x1b" not in capsys.readouterr().err


def test_bar_is_on_stderr_and_only_where_it_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = file_of(tmp_path, row())
    check_data(path, progress=True)
    said = capsys.readouterr()
    assert (said.out, "comparing rows: 100%" in said.err) == ("", True)
    check_data(path, progress=False)
    assert capsys.readouterr() == ("", "")


def test_missing_package_is_one_line_that_says_what_to_install() -> None:
    code = "import sys; sys.modules['pycld2'] = None\nfrom train import check_data"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip().splitlines()[-1].endswith("Training needs pycld2. Try: pip install 'uzbench[train]'")
