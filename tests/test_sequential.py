"""The gate that stops early: its boundaries, its order, and what it decides on runs, finished and still asked."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm

from harness.comparison import compare, pair
from harness.errors import UnknownNameError, UnpairedError, UsageError
from harness.evaluate import run
from harness.gate import AskedTask, TaskPairs, asked_tasks
from harness.policy import Golden, Policy, TaskRule
from harness.records import RunSpec
from harness.runs import RunDirectory, open_run
from harness.sequential import (
    FEWEST,
    SEED,
    Watch,
    asked_live,
    boundaries,
    candidate_spec,
    look,
    looked,
    p_margin,
    places,
    replayed,
    shares_of,
    spent,
)
from tests.synthetic import Asked, Asker, made_run

WHOLE = Policy(margin=0.04, min_effect=0.0)


# ---------------------------------------------------------------- boundaries


@pytest.mark.parametrize("alpha", [0.05, 0.025, 0.00625])
@pytest.mark.parametrize("shares", [(0.2, 0.6, 1.0), (0.05, 0.1, 0.15, 0.2), (0.5, 1.0)])
def test_errors_of_all_looks_add_up_to_what_may_be_spent(shares: tuple[float, ...], alpha: float) -> None:
    found = boundaries(shares, alpha)
    for n in range(2, len(shares) + 1):
        # z √share is a Brownian motion: two looks correlate by the root of the ratio of their shares.
        rho = [[math.sqrt(min(a, b) / max(a, b)) for a in shares[:n]] for b in shares[:n]]
        below = multivariate_normal(cov=rho, maxpts=2_000_000, abseps=1e-7, releps=1e-7).cdf(found[:n])
        # Two ways of integrating: a grid, and scipy's quasi-random points.
        assert 1 - below == pytest.approx(spent(shares[n - 1], alpha), abs=2e-5)


def test_single_look_is_a_usual_test() -> None:
    assert boundaries((1.0,), 0.05)[0] == pytest.approx(norm.isf(0.05), abs=1e-6)


def test_all_is_spent_at_the_end_and_nothing_at_the_start() -> None:
    assert spent(1.0, 0.05) == pytest.approx(0.05)
    assert spent(0.0, 0.05) == 0


def test_brownian_paths_cross_as_often_as_the_level_says() -> None:
    shares = shares_of(2000)
    steps = np.sqrt(np.diff([0.0, *shares]))
    paths = np.random.default_rng(3).normal(size=(40_000, len(shares))) * steps
    z = paths.cumsum(axis=1) / np.sqrt(shares)
    crossed = (z >= np.asarray(boundaries(shares, 0.05))).any(axis=1).mean()
    # Four standard errors of a share of 40,000.
    assert crossed == pytest.approx(0.05, abs=4 * math.sqrt(0.05 * 0.95 / 40_000))


def test_first_look_comes_after_a_hundred_documents() -> None:
    for n in (40, 100, 152, 700, 2000, 50_000):
        shares = shares_of(n)
        assert shares[-1] == 1
        assert len(shares) == 1 or shares[0] * n >= FEWEST
        assert list(shares) == sorted(set(shares))


# ---------------------------------------------------------------- order


def made_pair(folder: Path, n: int = 60, passages: int = 0, changed: int = 0, **more: object) -> list[RunDirectory]:
    """Two runs of a task, the second right on fewer of the documents."""
    right = [float(number % 2) for number in range(n)]
    worse = [0.0 if number < 2 * changed else value for number, value in enumerate(right)]
    groups = [f"passage {number // passages}" for number in range(n)] if passages else None
    return [
        made_run(folder / name, Asked({"acc": values}, groups=groups, **more), by=Asker(name=name))  # type: ignore[arg-type]
        for name, values in (("base", right), ("cand", worse))
    ]


def asked_of(runs: list[RunDirectory]) -> list[AskedTask]:
    return asked_tasks(pair(*runs).tasks, runs[0].samples_at)


def test_passages_are_asked_whole(tmp_path: Path) -> None:
    (task,) = asked_of(made_pair(tmp_path, passages=5))
    found: dict[str, set[float]] = {}
    for group, place in zip(task.groups, places(task), strict=True):
        found.setdefault(group, set()).add(float(place))
    assert all(len(each) == 1 for each in found.values())
    assert len(set().union(*found.values())) == 12


def test_order_hangs_on_seed_and_item_alone(tmp_path: Path) -> None:
    latin, cyrillic = (asked_of(made_pair(tmp_path / name, orthography=name))[0] for name in ("latin", "cyrillic"))
    assert (places(latin) == places(cyrillic)).all()
    assert (places(latin) == places(latin)).all()
    assert (places(latin) != places(latin, SEED + 1)).any()
    assert sorted(places(latin)) == pytest.approx(np.arange(1, 61) / 60)


def test_order_is_not_the_order_of_the_file(tmp_path: Path) -> None:
    (task,) = asked_of(made_pair(tmp_path))
    assert abs(np.corrcoef(places(task), np.arange(60))[0, 1]) < 0.4


def test_golden_items_are_asked_first(tmp_path: Path) -> None:
    (task,) = asked_of(made_pair(tmp_path))
    golden = {"uz_topic-041", "uz_topic-007"}
    order = np.argsort(places(task, first=golden))
    assert {task.items[number] for number in order[:2]} == golden


def test_each_document_is_asked_once(tmp_path: Path) -> None:
    tasks = asked_of(made_pair(tmp_path, n=400, passages=4))
    watch = Watch(tasks, WHOLE)
    asked = np.zeros(400, dtype=int)
    for number in range(len(watch.shares)):
        asked += watch.fresh()[0]
        watch.number = number
    assert (asked == 1).all()


# ---------------------------------------------------------------- decisions


def drawn(rng: np.random.Generator, n: int, delta: float, churn: float = 0.15) -> TaskPairs:
    """Two models' answers to n documents, of which a share changes."""
    u = rng.random(n)
    change = np.where(u < (churn - delta) / 2, -1, np.where(u > 1 - (churn + delta) / 2, 1, 0))
    base = np.where(change == 1, 0, np.where(change == -1, 1, rng.integers(0, 2, size=n))).astype(float)
    return TaskPairs("uz_topic", "latin", "acc", base, base + change, [""] * n)


def decided(task: TaskPairs) -> tuple[str, float]:
    shares = shares_of(len(task.base))
    found = None
    for number, share in enumerate(shares):
        n = round(share * len(task.base))
        part = dataclasses.replace(task, base=task.base[:n], cand=task.cand[:n], groups=task.groups[:n])
        found = look([part], shares, number, WHOLE)
        if found.verdict != "inconclusive":
            break
    assert found is not None
    return found.verdict, found.share


@pytest.mark.parametrize(
    ("delta", "verdict", "largest_share"), [(0.0, "pass", 0.4), (-0.06, "regression", 0.3)], ids=["equal", "worse"]
)
def test_clear_cases_are_decided_early_and_rightly(delta: float, verdict: str, largest_share: float) -> None:
    rng = np.random.default_rng(11)
    found = [decided(drawn(rng, 2000, delta)) for _ in range(60)]
    # 95 % at least; three standard errors of 60 draws.
    assert np.mean([each == verdict for each, _ in found]) >= 0.95 - 3 * math.sqrt(0.05 * 0.95 / 60)
    assert np.mean([share for _, share in found]) <= largest_share


def test_fall_as_large_as_the_margin_seldom_passes() -> None:
    rng = np.random.default_rng(12)
    found = [decided(drawn(rng, 2000, -WHOLE.margin))[0] for _ in range(120)]
    assert np.mean([verdict == "pass" for verdict in found]) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 120)


def test_run_held_against_itself_passes_and_never_regresses(tmp_path: Path) -> None:
    base, _ = made_pair(tmp_path, n=400)
    found = replayed(base, base, WHOLE)
    assert found.verdict == "pass"
    assert not any(each.fell for each in found.looks)
    assert found.share_asked is not None
    assert found.share_asked < 0.5


def test_few_equal_answers_prove_nothing(tmp_path: Path) -> None:
    base, _ = made_pair(tmp_path, n=40)
    # .96 to the power of 40 is .2: a fall of 4 points might well not show.
    assert replayed(base, base, WHOLE).verdict == "inconclusive"


def test_collapse_is_a_regression_at_the_first_look(tmp_path: Path) -> None:
    found = replayed(*made_pair(tmp_path, n=400, changed=200), WHOLE)
    assert found.verdict == "regression"
    assert len(found.looks) == 1
    assert {check.name: check.verdict for check in found.checks if check.kind == "task"} == {"uz_topic": "regression"}


def test_fall_that_is_too_small_to_count_stops_nothing(tmp_path: Path) -> None:
    runs = made_pair(tmp_path, n=400, changed=200)
    assert not any(each.fell for each in replayed(*runs, Policy(min_effect=0.9)).looks)


def test_pass_of_one_alphabet_stands_while_another_is_looked_at(tmp_path: Path) -> None:
    right = [float(number % 2) for number in range(400)]
    # In Cyrillic a tenth changes, both ways alike: it takes longer.
    mixed = [1 - value if number % 10 in (3, 4) else value for number, value in enumerate(right)]
    base, cand = (
        made_run(
            tmp_path / name,
            Asked({"acc": right}),
            Asked({"acc": values}, orthography="cyrillic"),
            by=Asker(name=name),
        )
        for name, values in (("base", right), ("cand", mixed))
    )
    found = replayed(base, cand, WHOLE)
    verdicts = {
        name: [each.verdict for each in found.looks if each.orthography == name] for name in ("latin", "cyrillic")
    }
    first = verdicts["latin"].index("pass")
    assert verdicts["cyrillic"][first] == "inconclusive"
    assert len(verdicts["cyrillic"]) > first + 1
    suites = {check.orthography: check.verdict for check in found.checks if check.kind == "suite"}
    assert suites["latin"] == "pass"


def test_deciding_twice_gives_the_same(tmp_path: Path) -> None:
    runs = made_pair(tmp_path, n=400, changed=10)
    assert replayed(*runs, WHOLE) == replayed(*runs, WHOLE)


def test_seed_changes_the_order_in_which_documents_are_looked_at(tmp_path: Path) -> None:
    runs = made_pair(tmp_path, n=400, changed=8)
    found = [[each.delta for each in replayed(*runs, WHOLE, seed=seed).looks] for seed in range(4)]
    assert len({tuple(each) for each in found}) > 1


def test_golden_item_is_asked_however_early_the_gate_stops(tmp_path: Path) -> None:
    policy = dataclasses.replace(WHOLE, golden=(Golden("uz_topic", "uz_topic-399"),))
    found = replayed(*made_pair(tmp_path, n=400, changed=200), policy)
    assert [check.name for check in found.checks if check.kind == "golden"] == ["uz_topic/uz_topic-399"]


def test_golden_items_are_asked_first_however_many_they_are(tmp_path: Path) -> None:
    golden = tuple(Golden("uz_topic", f"uz_topic-{number:03d}") for number in range(300))
    found = replayed(*made_pair(tmp_path, n=400, changed=200), dataclasses.replace(WHOLE, golden=golden))
    assert len(found.looks) == 1
    assert sum(check.kind == "golden" for check in found.checks) == 300


def of_two(folder: Path, other: list[float | None], changed: list[float | None]) -> list[RunDirectory]:
    """Two runs of 1,200 documents that are answered alike, and of another task."""
    right = [float(number % 2) for number in range(1200)]
    return [
        made_run(folder / name, Asked({"acc": right}), Asked({"acc": values}, task="uz_qa"), by=Asker(name=name))
        for name, values in (("base", other), ("cand", changed))
    ]


def test_task_without_a_score_keeps_a_gate_from_passing(tmp_path: Path) -> None:
    found = replayed(*of_two(tmp_path, [None] * 40, [None] * 40), WHOLE)
    assert {check.name: check.verdict for check in found.checks if check.kind == "task"} == {
        "uz_topic": "pass",
        "uz_qa": "inconclusive",
    }
    assert found.verdict == "inconclusive"


def test_gate_does_not_pass_before_each_task_was_looked_at(tmp_path: Path) -> None:
    found = replayed(*of_two(tmp_path, [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]), WHOLE)
    # Of three documents the first is asked after a third of all.
    assert all(each.verdict == "inconclusive" for each in found.looks if each.share < 1 / 3)
    assert found.verdict != "pass"


def test_task_with_a_margin_of_its_own_has_to_keep_it(tmp_path: Path) -> None:
    right = [float(number % 2) for number in range(300)]
    mixed = [1 - value if number % 10 in (3, 4) else value for number, value in enumerate(right)]
    runs = of_two(tmp_path, list(right), list(mixed))
    assert replayed(*runs, WHOLE).verdict == "pass"
    policy = dataclasses.replace(WHOLE, tasks={"uz_qa": TaskRule(margin=0.01)})
    found = replayed(*runs, policy)
    assert found.verdict == "inconclusive"
    (check,) = (check for check in found.checks if check.name == "uz_qa")
    assert check.verdict == "inconclusive"
    assert "a fall by 0.010" in check.message


def test_ignored_documents_do_not_bring_the_first_look_forward(tmp_path: Path) -> None:
    runs = of_two(tmp_path, [1.0, 0.0] * 60, [1.0, 0.0] * 60)
    found = replayed(*runs, dataclasses.replace(WHOLE, tasks={"uz_topic": TaskRule(ignore=True)}))
    assert found.looks[0].n_pairs >= FEWEST


def test_policy_that_ignores_every_task_is_refused_before_a_look(tmp_path: Path) -> None:
    runs = made_pair(tmp_path)
    with pytest.raises(UsageError, match="ignores every task"):
        Watch(asked_of(runs), dataclasses.replace(WHOLE, tasks={"uz_topic": TaskRule(ignore=True)}))


@pytest.mark.parametrize(("sizes", "gains"), [((760,), 0.0), ((760,), 0.005), ((160, 150, 150, 150, 100, 50), 0.0)])
def test_fall_that_few_documents_show_seldom_passes(sizes: tuple[int, ...], gains: float) -> None:
    policy = Policy(min_effect=0.0)
    shares, passed, rng = shares_of(sum(sizes)), 0, np.random.default_rng(13)
    for _ in range(120):
        tasks = []
        for number, n in enumerate(sizes):
            u = rng.random(n)
            # Nearly all documents that change are lost: the fall is the margin.
            change = np.where(u < policy.margin + gains, -1.0, np.where(u > 1 - gains, 1.0, 0.0))
            tasks.append(
                TaskPairs(f"task {number}", "latin", "acc", (change <= 0) * 1.0, (change >= 0) * 1.0, [""] * n)
            )
        for number, share in enumerate(shares):
            parts = [
                dataclasses.replace(task, base=task.base[:n], cand=task.cand[:n], groups=task.groups[:n])
                for task in tasks
                for n in [int(share * len(task.base))]
            ]
            verdict = look(parts, shares, number, policy).verdict
            if verdict != "inconclusive":
                passed += verdict == "pass"
                break
    assert passed / 120 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 120)


def test_equal_answers_of_small_tasks_may_hide_a_fall_of_the_average() -> None:
    def same(n: int) -> TaskPairs:
        return TaskPairs(f"task {n}", "latin", "acc", np.ones(n), np.ones(n), [""] * n)

    tasks = [same(10), same(90)]
    # The average falls by .03 also where the small one falls by .06: ten documents say little of that. At most it is
    # the largest of Π (1 - d)^size, by trying every way to share a fall out.
    first = np.linspace(0, 0.06, 6001)
    largest = ((1 - first) ** 10 * (1 - (0.06 - first)) ** 90).max()
    assert p_margin(tasks, [task.tested() for task in tasks], 0.03) == pytest.approx(largest, rel=1e-3)
    assert p_margin(tasks[:1], [tasks[0].tested()], 0.03) == pytest.approx(0.97**10)


def test_family_of_holm_is_whole_before_each_task_has_a_score() -> None:
    one = TaskPairs("uz_topic", "latin", "acc", np.ones(50), np.ones(50), [""] * 50)
    none = TaskPairs("uz_qa", "latin", "acc", np.zeros(0), np.zeros(0), [])
    assert looked([one, none], WHOLE).n_tests == 3
    assert looked([one], WHOLE).n_tests == 1


# ---------------------------------------------------------------- asking


@pytest.fixture(scope="module")
def base_run(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> RunDirectory:
    spec = RunSpec(model=str(tiny), tasks=("uz_sentiment",), orthographies=("latin", "cyrillic"))
    return run(spec, out=tmp_path_factory.mktemp("base"), progress=False)[0]


def test_candidate_is_asked_until_the_verdict_stands_and_no_more(base_run: RunDirectory, tmp_path: Path) -> None:
    spec = candidate_spec(base_run, None)
    found, partial = asked_live(base_run, spec, WHOLE, out=tmp_path, progress=False)
    # The same model again: not a document differs, and the gate stops before the end.
    assert found.verdict == "pass"
    assert found.share_asked is not None
    assert found.share_asked < 0.8
    assert found == dataclasses.replace(replayed(base_run, base_run, WHOLE), cand=found.cand, notes=found.notes)
    assert partial.run.complete
    assert partial.run.limited
    assert sum(task.n for task in partial.run.tasks) == round(found.share_asked * 300)
    # What was asked was answered as in the whole run, float for float but for the neighbours in a batch.
    whole = {(sample.task, sample.orthography, sample.doc_hash): sample for sample in base_run.samples}
    for sample in partial.samples:
        same = whole[sample.task, sample.orthography, sample.doc_hash]
        assert sample.prompt_hash == same.prompt_hash
        assert sample.logprobs == pytest.approx(same.logprobs, abs=1e-4)


def test_gate_that_was_stopped_goes_on_where_it_was(base_run: RunDirectory, tmp_path: Path) -> None:
    import harness.sequential as sequential

    spec = candidate_spec(base_run, None)
    whole, undisturbed = asked_live(base_run, spec, WHOLE, out=tmp_path / "a", progress=False)

    class Cut(Watch):
        def look(self, tasks: object) -> None:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sequential, "Watch", Cut)
        with pytest.raises(KeyboardInterrupt):
            asked_live(base_run, spec, WHOLE, out=tmp_path / "b", progress=False)
    again, resumed = asked_live(base_run, spec, WHOLE, out=tmp_path / "b", progress=False)
    assert resumed.run.requests["reused"] > 0
    assert again.verdict == whole.verdict
    for name in ("samples.jsonl", "scores.jsonl"):
        assert (resumed.path / name).read_bytes() == (undisturbed.path / name).read_bytes()


def test_partial_run_is_not_compared_with_a_whole_one(base_run: RunDirectory, tmp_path: Path) -> None:
    _, partial = asked_live(base_run, candidate_spec(base_run, None), WHOLE, out=tmp_path, progress=False)
    with pytest.raises(UnpairedError, match="documents differ"):
        compare(base_run, partial)
    assert open_run(partial.path).run.subset == "in parts"


def test_imported_base_cannot_be_asked_again(tmp_path: Path) -> None:
    base = made_run(tmp_path / "base", Asked({"acc": [1.0, 0.0]}), by=Asker(source="lm-eval"))
    with pytest.raises(UsageError, match="imported"):
        asked_live(base, candidate_spec(base, "x"), WHOLE, out=tmp_path, progress=False)


def test_run_that_was_asked_in_parts_is_no_base_to_ask_from(base_run: RunDirectory, tmp_path: Path) -> None:
    _, partial = asked_live(base_run, candidate_spec(base_run, None), WHOLE, out=tmp_path, progress=False)
    policy = dataclasses.replace(WHOLE, allow_limited=True)
    with pytest.raises(UsageError, match="in parts"):
        asked_live(partial, candidate_spec(partial, None), policy, out=tmp_path / "again", progress=False)


@pytest.mark.parametrize(
    "policy",
    [Policy(golden=(Golden("uz_sentiment", "nowhere"),)), Policy(tasks={"uz_nothing": TaskRule(margin=0.1)})],
    ids=["golden item", "task"],
)
def test_what_a_policy_names_and_is_not_there_is_said_before_anything_is_asked(
    base_run: RunDirectory, tmp_path: Path, policy: Policy
) -> None:
    with pytest.raises(UnknownNameError):
        asked_live(base_run, candidate_spec(base_run, None), policy, out=tmp_path / "runs", progress=False)
    assert not (tmp_path / "runs").exists()


def test_task_that_a_look_asks_nothing_of_waits_for_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import harness.evaluate as evaluate

    base = made_run(tmp_path / "base", Asked({"acc": [1.0, 0.0] * 300}), Asked({"acc": [1.0] * 3}, task="uz_qa"))
    wanted: list[dict[str, list[int]]] = []

    def in_parts(spec: RunSpec, more: Callable[..., dict[str, list[int]] | None], **_: object) -> RunDirectory:
        """Answers as the base did; a task without a document so far is in no run."""
        asked: dict[str, list[int]] = {}
        found = None
        while (part := more(found)) is not None:
            wanted.append(part)
            asked = {name: [*asked.get(name, []), *numbers] for name, numbers in part.items()}
            parts = []
            for record in base.run.tasks:
                numbers = asked[record.lm_eval_task]
                values = base.columns[record.key].values["acc", "none"]
                docs = [f"{number:03d}" for number in numbers]
                if numbers:
                    parts.append(Asked({"acc": [values[number] for number in numbers]}, record.task, docs=docs))
            found = made_run(tmp_path / "cand", *parts)
        assert found is not None
        return found

    monkeypatch.setattr(evaluate, "run_in_parts", in_parts)
    found, _ = asked_live(base, base.run.spec, WHOLE, out=tmp_path, progress=False)
    assert [name for name, numbers in wanted[0].items() if not numbers] == ["uz_qa_latin_p1"]
    assert found.looks == replayed(base, base, WHOLE).looks


def test_further_prompts_that_a_base_was_asked_by_name_are_not_asked_again(tiny: Path, tmp_path: Path) -> None:
    tasks = ("uz_sentiment", "uz_sentiment_cloze")
    base = run(RunSpec(model=str(tiny), tasks=tasks, limit=8), out=tmp_path / "base", progress=False)[0]
    policy = dataclasses.replace(WHOLE, allow_limited=True)
    found, partial = asked_live(base, candidate_spec(base, None), policy, out=tmp_path, progress=False)
    assert [task.lm_eval_task for task in partial.run.tasks] == ["uz_sentiment"]
    assert found.share_asked == 1
