"""What likelihoods of choices are worth: accuracy, accuracy by bytes, macro-F1 (against scikit-learn)."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import f1_score

from harness.corpus import Classified
from harness.scoring import read_samples, task_record
from tasks_uz.choices import macro_f1, process_classes

ROUNDING = 1e-12


def doc(*choices: str, answer: int = 0, form: str = "named") -> dict[str, Any]:
    return {"choices": list(choices), "answer": answer, "form": form}


def scored(document: dict[str, Any], *likelihoods: float) -> dict[str, Any]:
    return process_classes(document, [(each, False) for each in likelihoods])


@pytest.mark.parametrize(
    ("document", "likelihoods", "acc", "by_bytes"),
    [
        (doc("ha", "yoʻq", answer=0), (-1.0, -2.0), 1.0, 0.0),  # -1/2 a byte against -2/5: U+02BB has two bytes.
        (doc("ha", "yoʻq", answer=1), (-1.0, -2.0), 0.0, 1.0),
        (doc("bir", "ikki", answer=0), (-3.0, -4.0), 1.0, 1.0),  # Equal by bytes: the first.
        (doc("bir", "ikki", answer=1), (-4.0, -4.0), 0.0, 1.0),  # Equal: the first.
        (doc("ўн", "on", answer=1), (-4.0, -2.5), 1.0, 0.0),  # Four bytes and two.
        # Letters are compared as letters, whatever stands behind them.
        (doc("qisqa", "ancha uzun javob", answer=1, form="letters"), (-2.0, -1.0), 1.0, 1.0),
    ],
)
def test_accuracy_by_likelihood_and_by_bytes(
    document: dict[str, Any], likelihoods: tuple[float, ...], acc: float, by_bytes: float
) -> None:
    found = scored(document, *likelihoods)
    assert (found["acc"], found["acc_bytes"]) == (acc, by_bytes)


def test_pair_of_macro_f1_is_what_is_right_and_what_was_said() -> None:
    assert scored(doc("a", "b", "c", answer=2), -3.0, -1.0, -2.0)["macro_f1"] == (2, 1)


@pytest.mark.parametrize(("task", "said"), [("uz_topic", "ha"), ("uz_topic_cloze", "yoʻq")])
def test_recorded_answer_is_the_choice_that_the_primary_metric_takes(task: str, said: str) -> None:
    # -1/2 a byte against -2/5.
    logged = {
        "doc_id": 0,
        "doc": {"id": "topic-001"},
        "doc_hash": "0",
        "target": "1",
        "arguments": [("Savol:", " ha"), ("Savol:", " yoʻq")],
        "filtered_resps": [(-1.0, False), (-2.0, False)],
        "acc": 0.0,
        "acc_bytes": 1.0,
    }
    record = task_record(
        task,
        version="2.0",
        n_shot=0,
        n=1,
        n_all=1,
        metrics={"acc": True, "acc_bytes": True},
        output_type="multiple_choice",
        logged=[logged],
    )
    ((sample,), _) = read_samples(record, [logged])
    assert (sample.response, sample.target) == (said, "yoʻq")
    # macro-F1 stays lm-eval's, of the likeliest choice.
    assert Classified.of([sample]).said.tolist() == [0]


@pytest.mark.parametrize(
    ("pairs", "value"),
    [
        ([(0, 0), (1, 1)], 1.0),
        ([(0, 1), (1, 0)], 0.0),
        # Class 0: precision 2/3, recall 1, F1 4/5. Class 1: precision 1, recall 1/2, F1 2/3.
        ([(0, 0), (0, 0), (1, 0), (1, 1)], (4 / 5 + 2 / 3) / 2),
        # Class 2 is said and never right: F1 0. Class 3 is neither.
        ([(0, 0), (1, 2)], (1 + 0 + 0) / 3),
        ([], 0.0),
    ],
)
def test_macro_f1_is_that_worked_out_by_hand(pairs: list[tuple[int, int]], value: float) -> None:
    assert macro_f1(pairs) == pytest.approx(value, abs=ROUNDING)


@pytest.mark.parametrize("seed", range(30))
def test_macro_f1_is_that_of_scikit_learn_and_the_bootstraps_is_the_same(seed: int) -> None:
    draw = random.Random(seed)
    n_classes, n = draw.randint(2, 8), draw.randint(1, 60)
    right, said = ([draw.randrange(n_classes) for _ in range(n)] for _ in range(2))
    wanted = f1_score(right, said, average="macro", zero_division=0)
    assert macro_f1(zip(right, said, strict=True)) == pytest.approx(wanted, abs=ROUNDING)
    statistic = Classified(np.asarray(right), np.asarray(said)).macro_f1()
    assert statistic(np.ones((1, n)))[0] == pytest.approx(wanted, abs=ROUNDING)
    # A document drawn twice counts twice, one not drawn doesn't.
    weights = np.asarray([draw.randint(0, 2) for _ in range(n)], dtype=np.float64)
    if weights.any():
        repeated = [index for index, weight in enumerate(weights) for _ in range(int(weight))]
        again = f1_score([right[i] for i in repeated], [said[i] for i in repeated], average="macro", zero_division=0)
        assert statistic(weights[None])[0] == pytest.approx(again, abs=ROUNDING)
