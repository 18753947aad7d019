"""Two runs in, one Comparison out: what pairs, what is refused, what is counted and what is adjusted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import f1_score
from statsmodels.stats.multitest import multipletests
from synthetic import Asked, Asker, made_run

from harness import stats
from harness.comparison import MARGIN, compare
from harness.errors import RecordError, UnpairedError, UsageError
from harness.files import dumps, read_jsonl, write_jsonl
from harness.records import MACRO, Comparison, OrthographyGap, PromptRow, Row

# Two ways to add up the same numbers in floating point.
ROUNDING = 1e-12

RIGHT_BY_BASE = [1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0]
RIGHT_BY_CAND = [1.0, 1.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0]


def compared(
    tmp_path: Path,
    base: Asked | list[Asked],
    cand: Asked | list[Asked],
    *,
    by: Asker | None = None,
    cand_by: Asker | None = None,
    **options: Any,
) -> Comparison:
    """The comparison of two runs, made in tmp_path."""
    sides = [tasks if isinstance(tasks, list) else [tasks] for tasks in (base, cand)]
    one = made_run(tmp_path / "base", *sides[0], by=by or Asker("base-model"))
    two = made_run(tmp_path / "cand", *sides[1], by=cand_by or Asker("tuned-model", adapter="tuned"))
    return compare(one.path, two.path, **options)


def only(comparison: Comparison) -> Row:
    (row,) = comparison.rows
    return row


def acc(*values: float | None, **others: Any) -> Asked:
    return Asked({"acc": values}, **others)


# ---------------------------------------------------------------- pairing


def test_row_counts_what_was_gained_and_lost_document_by_document(tmp_path: Path) -> None:
    row = only(compared(tmp_path, acc(*RIGHT_BY_BASE), acc(*RIGHT_BY_CAND)))
    assert (row.gained, row.lost, row.n_pairs, row.n_unscored) == (3, 1, 8, 0)
    assert (row.base, row.cand, row.delta) == (3 / 8, 5 / 8, 2 / 8)
    assert row.test == "mcnemar"
    assert row.p == pytest.approx(binomtest(3, 4).pvalue, abs=ROUNDING)


def test_pairs_are_found_whatever_the_order_that_each_run_was_asked_in(tmp_path: Path) -> None:
    docs = ["a", "b", "c", "d"]
    row = only(
        compared(
            tmp_path,
            acc(1.0, 1.0, 0.0, 0.0, docs=docs),
            acc(0.0, 1.0, 1.0, 1.0, docs=["d", "c", "b", "a"]),
        )
    )
    # a 1 → 1, b 1 → 1, c 0 → 1, d 0 → 0. By place it would be one lost and two gained.
    assert (row.gained, row.lost) == (1, 0)


def test_repeated_document_pairs_occurrence_by_occurrence(tmp_path: Path) -> None:
    docs = ["a", "a", "b", "a"]
    row = only(compared(tmp_path, acc(1.0, 0.0, 1.0, 0.0, docs=docs), acc(1.0, 0.0, 1.0, 1.0, docs=docs)))
    assert (row.n_pairs, row.gained, row.lost, row.delta) == (4, 1, 0, 0.25)


def test_document_asked_once_more_by_one_run_is_refused(tmp_path: Path) -> None:
    base, cand = acc(1.0, 0.0, docs=["a", "b"]), acc(1.0, 0.0, 1.0, docs=["a", "b", "a"])
    with pytest.raises(UnpairedError, match=r"doc_hash\): 0 only in .*base, 1 only in .*cand"):
        compared(tmp_path, base, cand)


def test_same_text_in_two_tasks_is_two_documents(tmp_path: Path) -> None:
    tasks = [acc(1.0, 0.0, docs=["a", "b"]), acc(0.0, 0.0, task="uz_reading", docs=["a", "b"])]
    others = [acc(1.0, 1.0, docs=["a", "b"]), acc(0.0, 1.0, task="uz_reading", docs=["a", "b"])]
    comparison = compared(tmp_path, tasks, others)
    assert [(row.task, row.base, row.cand) for row in comparison.rows] == [
        ("uz_topic", 0.5, 1.0),
        ("uz_reading", 0.0, 0.5),
    ]


def test_identical_runs_differ_nowhere_and_count_as_the_same(tmp_path: Path) -> None:
    tasks = [acc(*RIGHT_BY_BASE), Asked({"chrf": [0.2, 0.4, 0.6]}, task="uz_summ")]
    comparison = compared(tmp_path, tasks, tasks)
    for row in comparison.rows:
        assert (row.delta, row.ci95, row.p, row.p_adjusted) == (0.0, (0.0, 0.0), 1.0, 1.0)
        assert (row.gained, row.lost, row.test, row.verdict, row.mde) == (0, 0, "none", "same", None)
        assert row.base == row.cand
    overall = comparison.overall["latin"]
    assert (overall.delta, overall.ci95, overall.p, overall.verdict) == (0.0, (0.0, 0.0), 1.0, "same")


def test_run_compared_with_itself_is_said_to_be_of_the_same_model(tmp_path: Path) -> None:
    run = made_run(tmp_path / "base", acc(*RIGHT_BY_BASE))
    assert compare(run, run).notes == ("Both runs are of the same model.",)


def test_exchanging_base_and_candidate_turns_the_signs_alone(tmp_path: Path) -> None:
    one = made_run(tmp_path / "base", acc(*RIGHT_BY_BASE))
    two = made_run(tmp_path / "cand", acc(*RIGHT_BY_CAND), by=Asker("tuned-model"))
    there, back = only(compare(one, two)), only(compare(two, one))
    assert (there.delta, there.gained, there.lost, there.p) == (-back.delta, back.lost, back.gained, back.p)
    assert there.ci95 == pytest.approx((-back.ci95[1], -back.ci95[0]), abs=ROUNDING)


# ---------------------------------------------------------------- refusals


DOCS = ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"version": "1.1"},
            r"^uz_topic: the version differs, 1\.0 in .*base and 1\.1 in .*cand\. Run both with",
        ),
        (
            {"n_shot": 5},
            r"^uz_topic: the number of shots differs, 0 in .*base and 5 in .*cand\. Run both with",
        ),
        (
            {"docs": ["a", "b", "x", "y"]},
            r"^uz_topic: the documents differ \(doc_hash\): 2 only in .*base, 2 only in .*cand\. .*--limit",
        ),
        (
            {"asked_as": "differently"},
            r"^uz_topic: the prompts differ \(prompt_hash\) on 4 of 4 documents, .*--prompt-format, --shots",
        ),
    ],
    ids=["version", "shots", "documents", "prompts"],
)
def test_runs_that_were_not_asked_the_same_are_refused_by_what_differs(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    base = acc(1.0, 0.0, 1.0, 0.0, docs=DOCS)
    with pytest.raises(UnpairedError, match=message) as caught:
        compared(tmp_path, base, replace(base, **changes))
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_single_document_asked_differently_is_refused_too(tmp_path: Path) -> None:
    run = made_run(tmp_path / "base", acc(1.0, 0.0, 1.0, 0.0))
    other = made_run(tmp_path / "cand", acc(1.0, 0.0, 1.0, 0.0))
    rows = [row for _, row in read_jsonl(other.path / "samples.jsonl")]
    rows[2]["prompt_hash"] = "another"
    write_jsonl(other.path / "samples.jsonl", rows)
    with pytest.raises(UnpairedError, match=r"\(prompt_hash\) on 1 of 4 documents"):
        compare(run.path, other.path)


@pytest.mark.parametrize("which", ["base", "cand", "both"])
def test_runs_of_different_tasks_are_refused_by_name(tmp_path: Path, which: str) -> None:
    topic, reading = acc(1.0, 0.0), acc(1.0, 0.0, task="uz_reading", orthography="cyrillic")
    base = {"base": [topic, reading], "cand": [topic], "both": [reading]}[which]
    cand = {"base": [topic], "cand": [topic, reading], "both": [topic]}[which]
    with pytest.raises(UnpairedError) as caught:
        compared(tmp_path, base, cand)
    assert str(caught.value).startswith("The runs asked different tasks: ")
    said = str(caught.value)
    assert (f"only {tmp_path / 'base'} has uz_reading cyrillic" in said) == (which != "cand")
    assert (f"only {tmp_path / 'cand'} has uz_" in said) == (which != "base")
    assert said.endswith("Run the same --tasks for both.")


def test_many_differing_tasks_are_named_up_to_five(tmp_path: Path) -> None:
    tasks = [acc(1.0, 0.0, task=f"uz_{number}") for number in range(9)]
    with pytest.raises(UnpairedError, match=r"has uz_1, uz_2, uz_3, uz_4, uz_5 and 3 more"):
        compared(tmp_path, tasks, tasks[:1])


def test_runs_in_different_alphabets_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnpairedError, match="different tasks"):
        compared(tmp_path, acc(1.0, 0.0), acc(1.0, 0.0, orthography="cyrillic"))


@pytest.mark.parametrize("margin", [0.0, 1.0, -0.1, 3.0, float("nan")])
def test_margin_that_is_no_fraction_is_refused(tmp_path: Path, margin: float) -> None:
    with pytest.raises(UsageError, match=r"expected a fraction between 0 and 1, such as 0\.03"):
        compared(tmp_path, acc(1.0, 0.0), acc(1.0, 0.0), margin=margin)


def test_run_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"cut off before its end\. Type the same uzbench run again"):
        compared(tmp_path, acc(1.0, 0.0), acc(1.0, 0.0), cand_by=Asker(complete=False))


def test_directory_that_is_no_run_is_refused(tmp_path: Path) -> None:
    run = made_run(tmp_path / "base", acc(1.0, 0.0))
    (tmp_path / "empty").mkdir()
    with pytest.raises(RecordError, match=r"isn't a run directory: it has no run\.json"):
        compare(run.path, tmp_path / "empty")


def test_runs_that_scored_no_document_in_common_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnpairedError, match="have no document that both scored"):
        compared(tmp_path, acc(1.0, None), acc(None, 1.0))


# ---------------------------------------------------------------- prompt formats


def test_another_prompt_format_is_compared_and_said(tmp_path: Path) -> None:
    base = acc(*RIGHT_BY_BASE)
    cand = replace(acc(*RIGHT_BY_CAND), asked_as="alpaca")
    comparison = compared(tmp_path, base, cand, cand_by=Asker("tuned", prompt_format="alpaca"))
    assert comparison.asked_differently
    assert comparison.notes == (
        "Asked differently: the base in the format plain, the candidate in alpaca. "
        "Part of the difference is the format, not the model.",
    )
    assert only(comparison).gained == 3


def test_another_prompt_format_excuses_no_other_difference(tmp_path: Path) -> None:
    base = acc(1.0, 0.0, docs=["a", "b"])
    for other in (replace(base, docs=["a", "x"]), replace(base, version="2.0"), replace(base, n_shot=3)):
        with pytest.raises(UnpairedError):
            compared(tmp_path, base, other, cand_by=Asker(prompt_format="alpaca"))


def test_prompts_of_imported_runs_have_no_format_to_differ_in(tmp_path: Path) -> None:
    base, imported = acc(1.0, 0.0), Asker(source="lm-eval", prompt_format="alpaca")
    with pytest.raises(UnpairedError, match="prompt_hash"):
        compared(tmp_path, base, replace(base, asked_as="alpaca"), by=Asker(source="lm-eval"), cand_by=imported)


def test_same_prompts_in_the_same_format_are_not_asked_differently(tmp_path: Path) -> None:
    comparison = compared(tmp_path, acc(*RIGHT_BY_BASE), acc(*RIGHT_BY_CAND))
    assert not comparison.asked_differently
    assert comparison.notes == ()


# ---------------------------------------------------------------- notes


def test_limited_runs_are_said_to_be(tmp_path: Path) -> None:
    task = acc(1.0, 0.0, n_all=160)
    comparison = compared(tmp_path, task, task)
    assert comparison.limited
    assert comparison.base.limited
    assert comparison.notes[0] == "Limited: the tasks were asked on a part of their documents (a --limit)."


def test_fixed_subset_is_named(tmp_path: Path) -> None:
    task = acc(1.0, 0.0, n_all=160)
    subset = Asker("a", subset="uz_demo"), Asker("b", subset="uz_demo")
    comparison = compared(tmp_path, task, task, by=subset[0], cand_by=subset[1])
    assert comparison.notes == ("Limited: the tasks were asked on a part of their documents (uz_demo).",)


def test_another_quantization_is_said(tmp_path: Path) -> None:
    task = acc(1.0, 0.0)
    comparison = compared(tmp_path, task, task, cand_by=Asker("b", quantization="nf4"))
    assert comparison.notes == ("Quantized differently: base none, candidate nf4.",)
    assert (comparison.base.quantization, comparison.cand.quantization) == ("none", "nf4")


# ---------------------------------------------------------------- unscored


@pytest.mark.parametrize(
    ("base", "cand", "n_pairs", "n_unscored"),
    [
        ([1.0, 0.0, 1.0, 0.0], [1.0, None, 1.0, 0.0], 3, 1),
        ([None, 0.0, 1.0, 0.0], [1.0, 0.0, 1.0, 0.0], 3, 1),
        ([None, 0.0, 1.0, 0.0], [None, 0.0, 1.0, 0.0], 3, 1),
        ([None, 0.0, 1.0, 0.0], [1.0, None, 1.0, 0.0], 2, 2),
    ],
)
def test_unscored_documents_are_counted_and_left_out_of_both_means(
    tmp_path: Path, base: list[float | None], cand: list[float | None], n_pairs: int, n_unscored: int
) -> None:
    row = only(compared(tmp_path, acc(*base), acc(*cand)))
    assert (row.n_pairs, row.n_unscored) == (n_pairs, n_unscored)
    both = [(x, y) for x, y in zip(base, cand, strict=True) if x is not None and y is not None]
    assert row.base == sum(x for x, _ in both) / len(both)
    assert row.cand == sum(y for _, y in both) / len(both)
    assert row.gained == row.lost == 0


def test_failure_is_never_a_score_of_zero(tmp_path: Path) -> None:
    row = only(compared(tmp_path, acc(1.0, 1.0, 1.0), acc(1.0, None, 1.0)))
    assert (row.cand, row.delta, row.lost) == (1.0, 0.0, 0)


# ---------------------------------------------------------------- tests and adjustment


def test_documents_of_a_passage_are_tested_by_flipping_passages(tmp_path: Path) -> None:
    groups = [f"passage {number // 3}" for number in range(12)]
    base = acc(*[0.0] * 12, task="uz_reading", groups=groups)
    cand = acc(*[1.0] * 6, *[0.0] * 6, task="uz_reading", groups=groups)
    row = only(compared(tmp_path, base, cand))
    assert (row.test, row.n_clusters, row.n_pairs) == ("sign-flip", 4, 12)
    # Sums of the passages: 3 3 0 0. Of 16 flips 8 reach ±6: the zeros' signs are free.
    assert row.p == pytest.approx(0.5, abs=ROUNDING)
    assert row.verdict == "unclear"


def test_right_and_wrong_answers_that_stand_alone_are_tested_by_mcnemar(tmp_path: Path) -> None:
    row = only(compared(tmp_path, acc(*[0.0] * 12), acc(*[1.0] * 6, *[0.0] * 6)))
    assert (row.test, row.n_clusters) == ("mcnemar", 12)
    assert row.p == pytest.approx(2 / 64, abs=ROUNDING)
    assert row.verdict == "better"


def test_graded_scores_are_tested_by_flipping_signs(tmp_path: Path) -> None:
    base = Asked({"chrf": [0.25, 0.5, 0.75, 0.25, 0.5]}, task="uz_summ")
    row = only(compared(tmp_path, base, Asked({"chrf": [0.5, 0.75, 1.0, 0.5, 0.75]}, task="uz_summ")))
    assert row.test == "sign-flip"
    assert row.p == pytest.approx(2 / 32, abs=ROUNDING)
    assert (row.delta, row.gained, row.lost) == (0.25, 5, 0)


def test_row_says_what_the_statistics_say(tmp_path: Path) -> None:
    groups = ["p", "p", "q", "q", "r", "r", "", ""]
    row = only(compared(tmp_path, acc(*RIGHT_BY_BASE, groups=groups), acc(*RIGHT_BY_CAND, groups=groups)))
    found = stats.paired(np.asarray(RIGHT_BY_BASE), np.asarray(RIGHT_BY_CAND), groups)
    assert (row.delta, row.ci95, row.p, row.mde, row.n_clusters) == (
        found.delta,
        found.ci95,
        found.p,
        found.mde,
        found.n_clusters,
    )


def three_tasks(*, right: tuple[int, int, int], orthography: str = "latin") -> list[Asked]:
    """Three tasks of 12 documents, of which so many are right; a second metric says the opposite."""
    return [
        Asked(
            {"acc": [1.0] * n + [0.0] * (12 - n), "acc_norm": [0.0] * n + [1.0] * (12 - n)},
            task=task,
            orthography=orthography,
        )
        for task, n in zip(("uz_topic", "uz_sentiment", "uz_lang"), right, strict=True)
    ]


def test_holm_runs_over_the_primary_metrics_of_one_orthography_and_no_others(tmp_path: Path) -> None:
    base = [*three_tasks(right=(0, 0, 0)), *three_tasks(right=(0, 0, 0), orthography="cyrillic")]
    cand = [*three_tasks(right=(9, 7, 5)), *three_tasks(right=(8, 6, 1), orthography="cyrillic")]
    comparison = compared(tmp_path, base, cand)
    assert len(comparison.rows) == 12
    for orthography, gained in (("latin", (9, 7, 5)), ("cyrillic", (8, 6, 1))):
        rows = [row for row in comparison.rows if row.orthography == orthography]
        primary = [row for row in rows if row.primary]
        assert [row.metric for row in primary] == ["acc"] * 3
        raw = [2 / 2**n for n in gained]
        assert [row.p for row in primary] == pytest.approx([min(1.0, p) for p in raw], abs=ROUNDING)
        wanted = multipletests([min(1.0, p) for p in raw], method="holm")[1]
        assert [row.p_adjusted for row in primary] == pytest.approx(list(wanted), abs=ROUNDING)
        assert [row.p_adjusted for row in rows if not row.primary] == [None] * 3


def test_verdict_of_a_primary_metric_follows_its_adjusted_p(tmp_path: Path) -> None:
    # 6 of 12 gained: p = 2/64 < .05 alone, 3 · 2/64 > .05 among three.
    comparison = compared(tmp_path, three_tasks(right=(0, 0, 0)), three_tasks(right=(6, 6, 6)))
    primary = [row for row in comparison.rows if row.primary]
    assert [row.verdict for row in primary] == ["unclear"] * 3
    assert [row.p_adjusted for row in primary] == pytest.approx([6 / 64] * 3, abs=ROUNDING)
    # A descriptive row keeps its own.
    assert [row.verdict for row in comparison.rows if not row.primary] == ["worse"] * 3


@pytest.mark.parametrize(("higher", "verdict", "gained"), [(True, "better", 12), (False, "worse", 0)])
def test_direction_of_a_metric_decides_what_is_better(tmp_path: Path, higher: bool, verdict: str, gained: int) -> None:
    base = Asked({"score": [0.0] * 12}, higher=higher)
    row = only(compared(tmp_path, base, Asked({"score": [1.0] * 12}, higher=higher)))
    assert (row.verdict, row.gained, row.lost) == (verdict, gained, 12 - gained)
    assert row.delta == 1.0


@pytest.mark.parametrize(("margin", "verdict"), [(MARGIN, "unclear"), (0.1, "same")])
def test_margin_decides_what_counts_as_the_same(tmp_path: Path, margin: float, verdict: str) -> None:
    # One lost and one gained of 40: the interval is ± 7.2 points.
    base, cand = [1.0, 0.0] + [1.0] * 38, [0.0, 1.0] + [1.0] * 38
    comparison = compared(tmp_path, acc(*base), acc(*cand), margin=margin)
    assert only(comparison).verdict == verdict
    assert comparison.margin == margin


# ---------------------------------------------------------------- macro average


def test_macro_average_takes_each_task_once_however_many_documents_it_has(tmp_path: Path) -> None:
    small = acc(0.0, 0.0, 1.0, 1.0), acc(1.0, 0.0, 1.0, 1.0)
    large = [0.0, 1.0] * 20, [1.0, 1.0, 0.0, 0.0] + [0.0, 1.0] * 18
    base = [small[0], acc(*large[0], task="uz_qa")]
    cand = [small[1], acc(*large[1], task="uz_qa")]
    comparison = compared(tmp_path, base, cand)
    overall = comparison.overall["latin"]
    assert overall.n_tasks == 2
    assert (overall.base, overall.cand, overall.delta) == ((0.5 + 0.5) / 2, (0.75 + 0.5) / 2, 0.25 / 2)
    errors = [(row.mde or 0.0) / stats.POWER_TWO_SIDED for row in comparison.rows]
    half = 1.959964 * sum(error**2 for error in errors) ** 0.5 / 2
    # The normal quantile has six digits here.
    assert overall.ci95 == pytest.approx((0.125 - half, 0.125 + half), abs=1e-6)


def test_each_orthography_has_a_macro_average_of_its_own_primary_metrics(tmp_path: Path) -> None:
    base = [*three_tasks(right=(0, 0, 0)), *three_tasks(right=(6, 6, 6), orthography="cyrillic")]
    cand = [*three_tasks(right=(12, 6, 6)), *three_tasks(right=(6, 6, 3), orthography="cyrillic")]
    overall = compared(tmp_path, base, cand).overall
    assert list(overall) == ["latin", "cyrillic"]
    assert overall["latin"].delta == pytest.approx((1 + 0.5 + 0.5) / 3, abs=ROUNDING)
    assert overall["cyrillic"].delta == pytest.approx(-0.25 / 3, abs=ROUNDING)
    assert (overall["latin"].verdict, overall["cyrillic"].n_tasks) == ("better", 3)


# ---------------------------------------------------------------- orthography gaps

NO_GAPS: dict[str, tuple[OrthographyGap, ...]] = {"base": (), "cand": ()}


def in_two_alphabets(latin: list[float | None], other: list[float | None], **changes: Any) -> list[Asked]:
    items = [f"item-{number}" for number in range(len(latin))]
    turned = items[::-1]
    return [
        acc(*latin, item_ids=items, **changes),
        # Asked in another order: only the item ids tell what belongs together.
        acc(
            *other[::-1],
            item_ids=turned,
            docs=[f"ҳужжат {item}" for item in turned],
            orthography="cyrillic",
            **changes,
        ),
    ]


def test_gap_between_alphabets_is_paired_by_item(tmp_path: Path) -> None:
    base = in_two_alphabets([1.0, 1.0, 0.0, 1.0], [1.0, 0.0, 1.0, 0.0])
    cand = in_two_alphabets([1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0])
    gaps = compared(tmp_path, base, cand).orthography_gaps
    ((base_gap,), (cand_gap,)) = gaps["base"], gaps["cand"]
    for gap in (base_gap, cand_gap):
        assert (gap.task, gap.metric, gap.orthography) == ("uz_topic", "acc", "cyrillic")
    assert (base_gap.latin, base_gap.other, base_gap.delta, base_gap.n_pairs) == (0.75, 0.5, -0.25, 4)
    # Two lost and one gained; by place it would be others.
    assert base_gap.p == pytest.approx(binomtest(1, 3).pvalue, abs=ROUNDING)
    assert (cand_gap.delta, cand_gap.ci95, cand_gap.p) == (0.0, (0.0, 0.0), 1.0)


def test_gap_leaves_out_items_that_one_alphabet_left_unscored(tmp_path: Path) -> None:
    tasks = in_two_alphabets([1.0, None, 1.0, 0.0], [0.0, 1.0, None, 0.0])
    (gap,) = compared(tmp_path, tasks, tasks).orthography_gaps["base"]
    assert (gap.latin, gap.other, gap.n_pairs) == (0.5, 0.0, 2)


def test_gap_of_items_that_share_a_passage_flips_passages(tmp_path: Path) -> None:
    groups = ["p"] * 3 + ["q"] * 3
    items = [f"item-{number}" for number in range(6)]
    tasks = [
        acc(*[1.0] * 6, item_ids=items, groups=groups),
        acc(*[0.0] * 6, item_ids=items, groups=groups, orthography="latin2026"),
    ]
    (gap,) = compared(tmp_path, tasks, tasks).orthography_gaps["base"]
    assert gap.p == pytest.approx(0.5, abs=ROUNDING)


def test_gap_compares_answers_to_the_same_prompt_alone(tmp_path: Path) -> None:
    items = ["item-0", "item-1"]
    latin, cyrillic = acc(1.0, 1.0, item_ids=items), acc(1.0, 0.0, item_ids=items, orthography="cyrillic")
    second = replace(latin, values={"acc": [0.0, 0.0]}, prompt_id="p2")
    tasks = [latin, second, cyrillic, replace(cyrillic, prompt_id="p2")]
    (gap,) = compared(tmp_path, tasks, tasks).orthography_gaps["base"]
    assert (gap.latin, gap.other) == (1.0, 0.5)


def test_mean_gap_of_several_tasks_comes_last_with_the_error_of_a_mean(tmp_path: Path) -> None:
    tasks = [
        *in_two_alphabets([1.0, 1.0, 0.0, 1.0], [1.0, 0.0, 1.0, 0.0]),
        *in_two_alphabets([1.0, 1.0, 1.0, 0.0, 1.0], [0.0, 0.0, 1.0, 0.0, 1.0], task="uz_lang"),
    ]
    topic, lang, mean = compared(tmp_path, tasks, tasks).orthography_gaps["base"]
    assert [gap.task for gap in (topic, lang, mean)] == ["uz_topic", "uz_lang", MACRO]
    assert (topic.delta, lang.delta, mean.n_pairs) == (-0.25, pytest.approx(-0.4), 2)
    assert (mean.latin, mean.other) == (pytest.approx((0.75 + 0.8) / 2), pytest.approx((0.5 + 0.4) / 2))
    # Differences 0 −1 +1 −1 and −1 −1 0 0 0: variances of their means by hand.
    stderr = np.sqrt((2.75 / 3) / 4 + (1.2 / 4) / 5) / 2
    assert mean.delta == pytest.approx(-0.325)
    assert mean.ci95 == pytest.approx((-0.325 - 1.959964 * stderr, -0.325 + 1.959964 * stderr), abs=1e-6)


def test_documents_without_item_ids_have_no_gap(tmp_path: Path) -> None:
    tasks = [
        acc(1.0, 0.0, item_ids=["", ""]),
        acc(0.0, 0.0, item_ids=["", ""], orthography="cyrillic"),
    ]
    assert compared(tmp_path, tasks, tasks).orthography_gaps == NO_GAPS


def test_run_in_one_alphabet_has_no_gap(tmp_path: Path) -> None:
    assert compared(tmp_path, acc(1.0, 0.0), acc(1.0, 1.0)).orthography_gaps == NO_GAPS


# ---------------------------------------------------------------- prompts


def prompts(*values: tuple[float, ...], **others: Any) -> list[Asked]:
    """One task under as many prompts, documents in the same order."""
    items = [f"item-{number}" for number in range(len(values[0]))]
    return [acc(*each, item_ids=items, prompt_id=f"p{number}", **others) for number, each in enumerate(values, 1)]


def only_prompts(comparison: Comparison) -> PromptRow:
    (row,) = comparison.prompt_rows
    return row


def test_prompts_of_a_task_are_one_row_of_document_means(tmp_path: Path) -> None:
    base = prompts((1.0, 0.0, 0.0, 1.0), (0.0, 0.0, 0.0, 1.0), (1.0, 1.0, 0.0, 1.0))
    cand = prompts((1.0, 1.0, 0.0, 1.0), (1.0, 0.0, 1.0, 1.0), (0.0, 1.0, 0.0, 1.0))
    row = only_prompts(compared(tmp_path, base, cand))
    assert (row.base.prompts, row.base.values, row.base.mean) == (("p1", "p2", "p3"), (0.5, 0.25, 0.75), 0.5)
    assert (row.base.worst, row.cand.worst) == (("p2", 0.25), ("p3", 0.5))
    assert row.base.sd == pytest.approx(0.25)
    assert (row.low, row.high) == (-0.25, 0.5)
    # Document means 2/3 1/3 0 1 against 2/3 2/3 1/3 1.
    means = np.array([2, 1, 0, 3]) / 3, np.array([2, 2, 1, 3]) / 3
    found = stats.paired(*means, [""] * 4)
    assert row.delta == pytest.approx(1 / 6, abs=ROUNDING)
    assert (row.ci95, row.p, row.n_pairs) == (found.ci95, found.p, 4)


def test_only_the_first_prompt_is_a_primary_result(tmp_path: Path) -> None:
    tasks = prompts((1.0, 0.0, 0.0, 1.0), (0.0, 0.0, 0.0, 1.0))
    comparison = compared(tmp_path, tasks, tasks)
    assert [(row.prompt_id, row.primary) for row in comparison.rows] == [("p1", True), ("p2", False)]
    assert comparison.overall["latin"].n_tasks == 1


def test_document_unscored_under_one_prompt_is_in_no_mean(tmp_path: Path) -> None:
    tasks = prompts((1.0, 0.0, 1.0), (None, 0.0, 0.0))
    row = only_prompts(compared(tmp_path, tasks, tasks))
    assert (row.base.values, row.n_pairs) == ((0.5, 0.0), 2)


def test_letters_and_cloze_are_not_one_family_of_prompts(tmp_path: Path) -> None:
    first, second = prompts((1.0, 0.0, 1.0), (0.0, 0.0, 0.0))
    tasks = [first, replace(second, prompt_id="cloze")]
    assert compared(tmp_path, tasks, tasks).prompt_rows == ()


# ---------------------------------------------------------------- macro-F1

CLASSES = ("salbiy", "ijobiy", "betaraf")


def classified(targets: str, responses: str, **others: Any) -> Asked:
    """Documents of three classes, each written as its first letter."""
    named = {name[0]: name for name in CLASSES}
    right = [float(target == said) for target, said in zip(targets, responses, strict=True)]
    wanted, said = ([named[letter] for letter in letters] for letters in (targets, responses))
    return acc(*right, targets=wanted, responses=said, choices=CLASSES, **others)


def f1_row(comparison: Comparison) -> Row:
    (row,) = (row for row in comparison.rows if row.metric == "macro_f1")
    return row


TARGETS = "sssiiibbb" * 5
BASE_SAYS = "sssssisss" * 5
CAND_SAYS = "ssiiiibbs" * 5


def test_macro_f1_is_compared_over_all_documents_at_once(tmp_path: Path) -> None:
    comparison = compared(tmp_path, classified(TARGETS, BASE_SAYS), classified(TARGETS, CAND_SAYS))
    row = f1_row(comparison)
    before, after = (f1_score(list(TARGETS), list(said), average="macro") for said in (BASE_SAYS, CAND_SAYS))
    assert (row.base, row.cand) == (pytest.approx(before), pytest.approx(after))
    assert row.delta == pytest.approx(after - before)
    assert row.ci95[0] < row.delta < row.ci95[1]
    assert (row.test, row.primary, row.p_adjusted, row.n_pairs) == ("bootstrap", False, None, 45)
    # In each nine: i, i, b and b became right, one s became wrong.
    assert (row.gained, row.lost) == (20, 5)
    assert row.verdict == "better"


@pytest.mark.parametrize(("n", "p"), [(2, 0.5), (3, 0.25), (5, 0.0625)])
def test_few_documents_that_all_became_right_prove_nothing(tmp_path: Path, n: int, p: float) -> None:
    targets = "sibsi"[:n]
    row = f1_row(compared(tmp_path, classified(targets, "ibsib"[:n]), classified(targets, targets)))
    assert (row.base, row.cand, row.delta) == (0.0, 1.0, 1.0)
    # As McNemar would have it; and every draw of such documents gives the same difference.
    assert row.p == p == binomtest(n, n).pvalue
    assert row.ci95[0] < 1.0
    assert row.verdict == "unclear"


def test_documents_that_one_run_left_unanswered_are_counted_and_in_no_macro_f1(tmp_path: Path) -> None:
    whole, part = classified(TARGETS, BASE_SAYS), classified(TARGETS, CAND_SAYS)
    part = replace(part, responses=[None, *list(part.responses or ())[1:-1], "boshqa"])
    row = f1_row(compared(tmp_path, whole, part))
    assert (row.n_pairs, row.n_unscored) == (43, 2)
    assert row.base == pytest.approx(f1_score(list(TARGETS[1:-1]), list(BASE_SAYS[1:-1]), average="macro"))


def test_task_without_any_answer_has_no_macro_f1(tmp_path: Path) -> None:
    whole = classified("sib", "sss")
    silent = replace(whole, responses=[None] * 3)
    rows = compared(tmp_path, whole, silent).rows
    assert [row.metric for row in rows] == ["acc"]


def test_macro_f1_pairs_documents_whatever_their_order(tmp_path: Path) -> None:
    docs = [f"d{number}" for number in range(45)]
    base = classified(TARGETS, BASE_SAYS, docs=docs)
    turned = classified(TARGETS[::-1], CAND_SAYS[::-1], docs=docs[::-1])
    row = f1_row(compared(tmp_path / "one", base, classified(TARGETS, CAND_SAYS, docs=docs)))
    assert f1_row(compared(tmp_path / "two", base, turned)) == row


def test_macro_f1_of_equal_answers_differs_by_nothing(tmp_path: Path) -> None:
    asked = classified(TARGETS, BASE_SAYS)
    row = f1_row(compared(tmp_path, asked, asked))
    assert (row.delta, row.ci95, row.p, row.test, row.verdict) == (0.0, (0.0, 0.0), 1.0, "none", "same")


def test_interval_of_macro_f1_draws_passages_whole(tmp_path: Path) -> None:
    # Documents of a passage are answered alike: nine times the documents and no more to know.
    groups = [f"passage-{number}" for number in range(9) for _ in range(5)]
    targets, base_says, cand_says = (
        "".join(letter * 5 for letter in letters) for letters in (TARGETS[:9], BASE_SAYS[:9], CAND_SAYS[:9])
    )
    sides = [classified(targets, said) for said in (base_says, cand_says)]
    free = f1_row(compared(tmp_path / "free", *sides))
    held = f1_row(compared(tmp_path / "held", *(replace(side, groups=groups) for side in sides)))
    assert (free.n_clusters, held.n_clusters) == (45, 9)
    assert held.ci95[1] - held.ci95[0] > 1.5 * (free.ci95[1] - free.ci95[0])


# ---------------------------------------------------------------- the record


def test_comparison_comes_back_equal_from_its_json(tmp_path: Path) -> None:
    base = in_two_alphabets([1.0, 1.0, 0.0, None], [1.0, 0.0, 1.0, 0.0])
    comparison = compared(tmp_path, base, base)
    assert Comparison.from_dict(json.loads(dumps(comparison.to_dict()))) == comparison


def test_comparing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    draws = [number * 37 % 11 / 11 for number in range(60)], [number * 53 % 13 / 13 for number in range(60)]
    one = made_run(tmp_path / "base", Asked({"chrf": draws[0]}, task="uz_summ"))
    two = made_run(tmp_path / "cand", Asked({"chrf": draws[1]}, task="uz_summ"), by=Asker("tuned"))
    assert dumps(compare(one.path, two.path).to_dict()) == dumps(compare(one.path, two.path).to_dict())


def test_sides_say_who_was_compared(tmp_path: Path) -> None:
    comparison = compared(tmp_path, acc(1.0, 0.0), acc(1.0, 1.0))
    assert (comparison.base.run_id, comparison.base.model, comparison.base.adapter) == (
        "base",
        "base-model",
        None,
    )
    assert (comparison.cand.run_id, comparison.cand.model_name, comparison.cand.adapter) == (
        "cand",
        "tuned-model",
        "tuned",
    )


def test_run_that_lacks_a_corpus_metric_is_compared_in_the_others(tmp_path: Path) -> None:
    comparison = compared(tmp_path, classified(TARGETS, BASE_SAYS), acc(*(1.0 for _ in TARGETS)))
    assert [row.metric for row in comparison.rows] == ["acc"]


def test_macro_average_of_both_sides_is_turned_as_its_difference(tmp_path: Path) -> None:
    base, cand = (
        [acc(*values, task="uz_topic"), acc(*values, task="uz_qa", higher=False)]
        for values in ((0.0, 0.0, 1.0, 0.0), (1.0, 0.0, 1.0, 1.0))
    )
    overall = compared(tmp_path, base, cand).overall["latin"]
    assert (overall.base, overall.cand) == pytest.approx((0.5, 0.5))
    assert overall.delta == pytest.approx(overall.cand - overall.base)
