"""The engine answers as lm-eval's own backend does, whatever is asked, and computes each distinct token once."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import save_adapter, save_tiny
from lm_eval.api.instance import Instance
from peft import PromptTuningConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from harness.engine import bench
from harness.engine.jobs import Budget, EnginePlanner, Instances, PaddedPlanner
from harness.engine.lm import EngineLM, HFBackend
from harness.engine.load import quantization_config, served
from harness.engine.tokens import Encoder
from harness.errors import ModelError, UsageError
from harness.evaluate import run
from harness.files import read_json
from harness.records import RunSpec
from harness.runs import RunDirectory

KINDS = ("llama", "mistral", "gemma3_text", "qwen3", "phi3", "phi")

CLOSE = 1e-3
"""float32, sums of some dozens of log-probabilities near -11, added in another order."""

SMALL = Budget(tokens=128, rows=4, cache_tokens=1024)
"""So small that every plan has several batches, segments and waves."""


def loaded(path: Path, quantization: str = "none") -> tuple[Any, Any]:
    config = quantization_config(quantization, torch.float32)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, quantization_config=config)
    return model.eval(), AutoTokenizer.from_pretrained(path)


def instances(kind: str, arguments: Iterable[tuple[Any, ...]]) -> list[Instance]:
    return [Instance(kind, {}, each, number) for number, each in enumerate(arguments)]


def by_engine(path: Path, kind: str, asked: list[Instance], budget: Budget = SMALL, **load: str) -> list[Any]:
    model, tokenizer = loaded(path, **load)
    engine = EngineLM(model, tokenizer)
    jobs = EnginePlanner(Encoder(tokenizer, model.config), budget).jobs(kind, {str(n): i for n, i in enumerate(asked)})
    answers: dict[str, Any] = {}
    for job, found in engine.work(kind, jobs):
        assert found is not None
        assert set(found) == set(job.keys)
        answers.update(found)
    return [answers[str(number)] for number in range(len(asked))]


def by_lm_eval(path: Path, kind: str, asked: list[Instance], **load: str) -> list[Any]:
    backend = HFBackend(*loaded(path, **load))
    backend.batch_size_per_gpu = 4
    with torch.inference_mode():
        return list(getattr(backend, kind)(asked, disable_tqdm=True))


def assert_same_scores(path: Path, requests: list[tuple[str, str]], **load: str) -> None:
    asked = instances("loglikelihood", requests)
    ours, theirs = (by(path, "loglikelihood", asked, **load) for by in (by_engine, by_lm_eval))
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in theirs]
    assert max(abs(one[0] - two[0]) for one, two in zip(ours, theirs, strict=True)) < CLOSE


WORDS = ("Toshkent", " bahor", " kitob", " oʻzbek", " daryo", " maktabda", " va", "\n", " 1991", " Қарши", "ʼ")


def random_requests(seed: int) -> list[tuple[str, str]]:
    """Contexts that share, nest and repeat, an empty one, and choices of one token and of many."""
    source = random.Random(seed)

    def text(low: int, high: int) -> str:
        return "".join(source.choice(WORDS) for _ in range(source.randint(low, high)))

    shots = text(20, 40)
    contexts = [""]
    for _ in range(6):
        contexts.append(shots + text(1, 25))
        contexts.append(source.choice(contexts[1:]) + source.choice(("", " ", text(1, 6))))
    return [(context, text(1, source.choice((1, 6)))) for context in contexts for _ in range(source.randint(1, 3))]


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_lm_evals_on_any_requests(kind: str, tokenizer_directory: Path, tmp_path: Path) -> None:
    path = save_tiny(tmp_path / kind, tokenizer_directory, kind)
    for seed in (1, 2):
        assert_same_scores(path, random_requests(seed))


@pytest.mark.parametrize("seed", range(3, 9))
def test_scores_are_lm_evals_on_many_random_sets(seed: int, tiny: Path) -> None:
    assert_same_scores(tiny, random_requests(seed))


@pytest.mark.parametrize("quantization", ["int8", "nf4"])
def test_scores_of_a_quantized_base_are_lm_evals(quantization: str, tiny: Path) -> None:
    asked = instances("loglikelihood", random_requests(1))
    ours, theirs = (by(tiny, "loglikelihood", asked, quantization=quantization) for by in (by_engine, by_lm_eval))
    gaps = [abs(one[0] - two[0]) for one, two in zip(ours, theirs, strict=True)]
    # int8 rounds each row of activations by its largest, and outliers are drawn from the whole batch: not the same
    # batch, not the same rounding.
    assert max(gaps) < (CLOSE if quantization == "nf4" else 0.5)


def test_beginning_of_what_is_too_long_is_cut_as_lm_eval_cuts_it(
    tokenizer_directory: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = save_tiny(tmp_path / "short", tokenizer_directory, positions=48)
    requests = [(context * 3, choice) for context, choice in random_requests(4)]
    with caplog.at_level(logging.WARNING):
        assert_same_scores(path, requests)
    assert "exceeds model's maximum length (48). Truncating" in caplog.text


def test_context_of_space_alone_is_an_empty_one_where_lm_eval_fails(tiny: Path) -> None:
    blank, empty = by_engine(tiny, "loglikelihood", instances("loglikelihood", [(" \n", "bahor"), ("", " \nbahor")]))
    assert blank == empty


def test_answer_longer_than_the_model_is_one_line(tokenizer_directory: Path, tmp_path: Path) -> None:
    path = save_tiny(tmp_path / "short", tokenizer_directory, positions=16)
    with pytest.raises(ModelError, match=r"has \d+ tokens, where 1 to 16 can be scored"):
        by_engine(path, "loglikelihood", instances("loglikelihood", [("Savol:", " uzun javob" * 20)]))


@pytest.mark.parametrize("kind", ["llama", "gemma3_text"])
def test_whole_texts_have_lm_evals_rolling_likelihood(kind: str, tokenizer_directory: Path, tmp_path: Path) -> None:
    path = save_tiny(tmp_path / kind, tokenizer_directory, kind, positions=40)
    texts = [context + choice for context, choice in random_requests(5)]
    # One has nothing to score, one more windows than a batch holds.
    longest = "".join(texts)
    assert len(longest.split()) > SMALL.tokens
    asked = instances("loglikelihood_rolling", [(text,) for text in [*texts, "bir", "", longest]])
    ours, theirs = (by(path, "loglikelihood_rolling", asked) for by in (by_engine, by_lm_eval))
    assert max(abs(one - two) for one, two in zip(ours, theirs, strict=True)) < CLOSE


# ------------------------------------------------------------ generation


def test_texts_are_lm_evals_with_stop_strings_shared_prompts_and_any_lengths(
    tokenizer_directory: Path, tmp_path: Path
) -> None:
    for kind in KINDS:
        path = save_tiny(tmp_path / kind, tokenizer_directory, kind)
        contexts = sorted({context for context, _ in random_requests(6) if context.strip()})
        greedy: dict[str, Any] = {"max_gen_toks": 12, "do_sample": False}
        asked = instances("generate_until", [(context, {**greedy, "until": ["\n"]}) for context in contexts])
        free = by_engine(path, "generate_until", asked)
        assert free == by_lm_eval(path, "generate_until", asked)
        # What the model says in the middle of an answer stops it there.
        stops = sorted({text[len(text) // 2 :][:3] for text in free if len(text) > 6})[:2]
        asked = instances("generate_until", [(context, {**greedy, "until": stops}) for context in contexts])
        stopped = by_engine(path, "generate_until", asked)
        assert stopped == by_lm_eval(path, "generate_until", asked)
        assert all(stop not in text for stop in stops for text in stopped)
        assert stopped != free


def test_prompt_too_long_for_its_answer_loses_its_beginning_as_in_lm_eval(
    tokenizer_directory: Path, tmp_path: Path
) -> None:
    path = save_tiny(tmp_path / "short", tokenizer_directory, positions=48)
    contexts = [context * 4 for context, _ in random_requests(7) if context.strip()][:4]
    asked = instances("generate_until", [(context, {"until": ["\n"], "max_gen_toks": 8}) for context in contexts])
    assert by_engine(path, "generate_until", asked) == by_lm_eval(path, "generate_until", asked)


def test_answer_longer_than_the_model_takes_is_refused_with_what_to_type(
    tokenizer_directory: Path, tmp_path: Path
) -> None:
    path = save_tiny(tmp_path / "short", tokenizer_directory, positions=32)
    with pytest.raises(UsageError, match=r"40 new tokens are asked for, .* Try: --gen-kwargs max_gen_toks=64"):
        by_engine(path, "generate_until", instances("generate_until", [("Savol", {"max_gen_toks": 40})]))


def varied(model: Any, tokenizer: Any) -> tuple[str, list[int], int]:
    """A prompt, its answer of 8 tokens, and the place of one among them that stands there once."""

    def said_to(text: str) -> list[int]:
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        found: list[int] = model.generate(ids, max_new_tokens=8, do_sample=False, pad_token_id=0)[0].tolist()
        return found[ids.shape[1] :]

    return next(
        (context, said, at)
        for seed in range(6, 30)
        for context, _ in random_requests(seed)
        if context
        for said in [said_to(context)]
        for at in range(1, len(said) - 1)
        if said.count(said[at]) == 1
    )


def answered(model: Any, tokenizer: Any, prompt: str, **settings: object) -> str:
    """What the engine says to a prompt in at most 8 tokens."""
    planner = EnginePlanner(Encoder(tokenizer, model.config), SMALL)
    (asked,) = instances("generate_until", [(prompt, {"max_gen_toks": 8, **settings})])
    jobs = planner.jobs("generate_until", {"a": asked})
    ((_, found),) = EngineLM(model, tokenizer).work("generate_until", jobs)
    assert found is not None
    return str(found["a"])


def test_answer_ends_at_any_of_the_models_end_tokens(tokenizer_directory: Path, tmp_path: Path) -> None:
    model, tokenizer = loaded(save_tiny(tmp_path / "gemma3", tokenizer_directory, "gemma3_text"))
    prompt, said, at = varied(model, tokenizer)
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, said[at]]
    assert answered(model, tokenizer, prompt) == tokenizer.decode(said[:at])


def test_stop_string_that_is_a_special_token_ends_an_answer(tokenizer_directory: Path, tmp_path: Path) -> None:
    model, tokenizer = loaded(save_tiny(tmp_path / "gemma3", tokenizer_directory, "gemma3_text"))
    prompt, said, at = varied(model, tokenizer)
    # The token that comes there becomes special: the text of an answer shows it no more.
    stop = tokenizer.convert_ids_to_tokens(said[at])
    tokenizer.add_special_tokens({"additional_special_tokens": [stop]})
    assert len(answered(model, tokenizer, prompt)) > len(tokenizer.decode(said[:at]))
    assert answered(model, tokenizer, prompt, until=[stop]) == tokenizer.decode(said[:at])


def test_sampling_goes_through_transformers_and_draws_the_same_again(tiny: Path, tmp_path: Path) -> None:
    drawn = []
    for seed, out in ((1, "one"), (1, "two"), (2, "one")):
        spec = RunSpec(
            model=str(tiny), tasks=("uz_qa",), limit=3, seed=seed, gen_kwargs={"do_sample": True, "temperature": 1.0}
        )
        (found,) = run(spec, out=tmp_path / out, progress=False)
        assert found.run.requests["reused"] == 0
        drawn.append([sample.response for sample in found.samples])
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]


# ------------------------------------------------------------ what isn't served, and what doesn't fit


def test_architecture_it_doesnt_know_goes_lm_evals_way_and_that_is_said_once(
    tokenizer_directory: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = save_tiny(tmp_path / "other", tokenizer_directory, "gpt2")
    with caplog.at_level(logging.WARNING, logger="harness"):
        ours, theirs = (
            run(RunSpec(model=str(path), tasks=("uz_topic", "uz_qa"), limit=2, backend=backend), out=tmp_path / "runs",
                progress=False)[0]
            for backend in ("engine", "hf")
        )  # fmt: skip
    assert caplog.text.count("the architecture gpt2 is served by lm-eval's own path") == 1
    assert [s.response for s in ours.samples] == [s.response for s in theirs.samples]


SPEC = RunSpec(model="m")
OWN_CODE = {"AutoModelForCausalLM": "own.Model"}


@pytest.mark.parametrize(
    ("config", "spec"),
    [
        # What multimodal checkpoints of Gemma 3 say of themselves.
        (AutoConfig.for_model("gemma3"), SPEC),
        (AutoConfig.for_model("llama", rope_parameters={"rope_type": "dynamic", "factor": 2.0}), SPEC),
        (AutoConfig.for_model("llama", auto_map=OWN_CODE), RunSpec("m", trust_remote_code=True)),
        (AutoConfig.for_model("llama"), RunSpec("m", backend="hf")),
    ],
    ids=["several parts", "positions scaled by the batch", "its own code", "hf"],
)  # fmt: skip
def test_what_the_engine_would_get_wrong_isnt_served_by_it(config: Any, spec: RunSpec) -> None:
    assert not served(spec, config)


@pytest.mark.parametrize("kind", KINDS)
def test_architectures_that_it_knows_are_served(kind: str) -> None:
    assert served(SPEC, AutoConfig.for_model(kind))
    # Code of its own that isn't run changes nothing.
    assert served(SPEC, AutoConfig.for_model(kind, auto_map=OWN_CODE))


def test_adapter_that_puts_tokens_in_front_is_refused_by_the_engine_with_what_to_type(
    tiny: Path, tmp_path: Path
) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny)
    prompt = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    get_peft_model(model, prompt).save_pretrained(tmp_path / "adapter")
    spec = RunSpec(model=str(tiny), tasks=("uz_topic",), limit=1)
    with pytest.raises(ModelError, match=r"of the kind PROMPT_TUNING, .* Try: --backend hf"):
        run(spec, adapters=[str(tmp_path / "adapter")], out=tmp_path / "runs", progress=False)


def out_of_memory_above(n_requests: int, start: Callable[..., Any]) -> Callable[..., Any]:
    def limited(self: Any, kind: str, job: Any) -> Any:
        if len(job.keys) > n_requests:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return start(self, kind, job)

    return limited


def answers_of(found: RunDirectory) -> list[tuple[Any, ...]]:
    return [(sample.item_id, sample.response) for sample in found.samples]


@pytest.mark.parametrize("backend", ["engine", "hf"])
def test_job_that_doesnt_fit_is_halved_not_lost_and_halved_again_when_resumed(
    backend: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = RunSpec(model=str(tiny), tasks=("uz_topic", "uz_qa"), limit=12, backend=backend)
    (calm,) = run(spec, out=tmp_path / "calm", progress=False)
    cls = EngineLM if backend == "engine" else HFBackend
    monkeypatch.setattr(cls, "start", out_of_memory_above(8, cls.start))
    (found,) = run(spec, out=tmp_path / "runs", progress=False)
    assert answers_of(found) == answers_of(calm)
    splits = read_json(found.path / "plan.json")["splits"]
    assert splits
    (again,) = run(spec, out=tmp_path / "runs", progress=False)
    assert again.run.requests["asked"] == 0
    assert again.run.requests["split"] >= len(splits)
    assert read_json(found.path / "plan.json")["splits"] == splits


def test_single_request_that_doesnt_fit_is_one_line(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EngineLM, "start", out_of_memory_above(0, EngineLM.start))
    with pytest.raises(ModelError, match=r"A single request doesn't fit the device's memory. Try: --quantization nf4"):
        run(RunSpec(model=str(tiny), tasks=("uz_topic",), limit=2), out=tmp_path, progress=False)


def test_padded_jobs_hold_like_lengths_longest_first(tiny: Path) -> None:
    model, tokenizer = loaded(tiny)
    asked = instances("loglikelihood", random_requests(8))
    budget = Budget(tokens=256, rows=3, cache_tokens=256)
    jobs = PaddedPlanner(Encoder(tokenizer, model.config), budget).jobs(
        "loglikelihood", {str(number): each for number, each in enumerate(asked)}
    )
    lengths = [[len(tokenizer.encode("".join(each.args))) for each in job.instances] for job in jobs]
    assert sorted(key for job in jobs for key in job.keys) == sorted(str(number) for number in range(len(asked)))
    assert [one for job in lengths for one in job] == sorted((one for job in lengths for one in job), reverse=True)
    assert all(len(job) <= 3 and (len(job) == 1 or len(job) * job[0] <= 256) for job in lengths)
    assert all(isinstance(job, Instances) for job in jobs)


# ------------------------------------------------------------ one base, many adapters


def test_base_and_adapters_are_one_load(
    tiny: Path, adapters: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = []
    load = AutoModelForCausalLM.from_pretrained
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *a, **k: loads.append(a) or load(*a, **k))
    spec = RunSpec(model=str(tiny), tasks=("uz_topic", "uz_qa"), limit=3, n_shot=2)
    together = run(spec, adapters=[str(path) for path in adapters], out=tmp_path / "together", progress=False)
    assert len(loads) == 1
    assert len({found.run.run_id for found in together}) == 3
    for adapter, found in zip((None, *adapters), together, strict=True):
        # Alone, an adapter's base is asked too, first.
        alone = run(spec, adapters=[str(adapter)] if adapter else [], out=tmp_path / found.run.run_id, progress=False)
        assert answers_of(alone[-1]) == answers_of(found)
        assert [s.logprobs for s in alone[-1].samples] == [s.logprobs for s in found.samples]


def test_adapter_is_scored_as_lm_eval_scores_it(tiny: Path, tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path / "adapter", tiny, 5)
    spec = RunSpec(model=str(tiny), tasks=("uz_topic", "uz_reading"), limit=3)
    ours, theirs = (
        run(RunSpec(**{**spec.to_dict(), "backend": backend}), adapters=[str(adapter)], out=tmp_path / backend,
            progress=False)[1]
        for backend in ("engine", "hf")
    )  # fmt: skip
    gaps = [abs(a - b) for one, two in zip(ours.samples, theirs.samples, strict=True)
            for a, b in zip(one.logprobs, two.logprobs, strict=True)]  # fmt: skip
    assert max(gaps) < CLOSE
    assert answers_of(ours) == answers_of(theirs)


# ------------------------------------------------------------ the benchmark


def test_benchmark_prints_both_ways_their_tokens_and_that_they_agree(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["1x3@2", "--generate", "2@2", "--new-tokens", "4", "--budget", "1024"]) == 0
    printed = capsys.readouterr().out
    assert "same choice 3 of 3, same greedy flag 12 of 12" in printed
    assert "2 of 2 texts the same" in printed
    assert printed.count("| engine |") == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["0x4@2", "0x4@4"], "a case is named twice"),
        (["--generate", "2", "--reference"], "--reference wants a case"),
        (["0x4", "--quantization", "nf4", "--reference"], "weights that aren't quantized"),
        (["0y4"], "isn't SHOTSxDOCUMENTS@BATCH,BATCH"),
    ],
)
def test_benchmark_refuses_what_it_cant_measure(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        bench.main(arguments)
    assert message in capsys.readouterr().err


def test_benchmark_counts_what_is_distinct(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["2x4@", "--json"]) == 0
    document = __import__("json").loads(capsys.readouterr().out)
    (row,) = document["rows"]
    # 1,100 tokens of shots once; four documents of 350 to 650, four choices of 4 to 20 each less its last token.
    assert 1100 + 4 * (350 + 4 * 3) <= row["n_tokens"] <= 1100 + 4 * (650 + 4 * 19)
    assert 0 < row["share"] < 1
