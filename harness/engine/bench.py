"""How fast the engine is beside lm-eval's own backend: the same requests, one run, one machine.

    python -m harness.engine.bench 0x40 3x20
    python -m harness.engine.bench 5x100 --model gemma-3-270m --task uz_topic
    python -m harness.engine.bench 0x200@8,32 5x100@8,16 --generate 128@64,128 --shape mistral-7b --reference
    python -m harness.engine.bench 0x100@ 0x1000@ 0x10000@
    python -m harness.engine.bench 0x2000 --shape mistral-7b --gpus 2

A case is SHOTSxDOCUMENTS, behind @ the batch sizes that lm-eval's backend tries, none or any number. Without --task,
documents are random tokens: shots of 550, documents of 350 to 650, four choices of 4 to 20. On CUDA the engine does a
case twice and the second time counts: the first compiles kernels. The floor is the arithmetic of the weights alone on
each distinct token (twice the parameters of the layers), at the speed at which this device multiplies two large
matrices; attention, the output head and all else come on top.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lm_eval.api.instance import Instance
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from harness.engine.identity import Located, locate_model
from harness.engine.jobs import EnginePlanner
from harness.engine.lm import EngineLM, HFBackend
from harness.engine.load import CPU_BYTES, measured_budget, quantization_config, resolved_dtype
from harness.engine.plan import Batch, Part, Unit, plan
from harness.engine.pool import ServerPool
from harness.engine.shapes import LONGEST, SHAPES, matmul_flops, random_model
from harness.engine.tokens import Encoder
from harness.engine.tree import Tokens, tokens
from harness.errors import UzBenchError
from harness.records import RunSpec

Document = tuple[Tokens, list[Tokens]]
"""A context and its choices."""


@dataclass(frozen=True, slots=True)
class Case:
    """What is asked: documents behind shots, or prompts; and the batch sizes that lm-eval's backend tries."""

    n_shot: int
    n_docs: int
    hf_batch: tuple[int, ...] = (8,)

    def __str__(self) -> str:
        return f"{self.n_shot} shots × {self.n_docs}"


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement.

    n_tokens: computed, or new ones. share: of the floor. ratio: seconds of the best hf row to these.
    """

    case: str
    way: str
    n_tokens: int
    seconds: float
    peak_gib: float | None = None
    share: float | None = None
    ratio: float | None = None
    note: str = ""


class Bench:
    """A model, and what is measured on it."""

    def __init__(self, options: argparse.Namespace):
        self.options = options
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.dtype = getattr(torch, resolved_dtype(RunSpec(model="bench", dtype=options.dtype), self.device.type))
        self.model, self.tokenizer = self._model()
        self.config = self.model.config
        self.rng = random.Random(1)
        # Of quantized weights, two stand in a byte: counted by shape.
        self.n_parameters = sum(
            module.in_features * module.out_features
            for module in self.model.model.layers.modules()
            if isinstance(module, torch.nn.Linear)
        )
        free = torch.cuda.mem_get_info()[0] if self.device.type == "cuda" else CPU_BYTES
        budget = measured_budget(RunSpec(model="bench", dtype=options.dtype), self.config, self.device.type, free)
        self.budget = replace(budget, tokens=options.budget) if options.budget else budget
        self.flops = matmul_flops(self.device, self.dtype)

    def _model(self) -> tuple[Any, Any]:
        options = self.options
        quantization = quantization_config(options.quantization, self.dtype)
        if options.model:
            path = locate_model(options.model).path
            model = AutoModelForCausalLM.from_pretrained(
                path, dtype=self.dtype, quantization_config=quantization, device_map={"": self.device}
            )
            return model.eval(), AutoTokenizer.from_pretrained(path)
        model = random_model(options.shape, self.dtype, options.quantization, self.device)
        return model, word_tokenizer(model.config.vocab_size)

    # What is asked.

    def random_tokens(self, n: int) -> list[int]:
        return [self.rng.randrange(3, self.config.vocab_size) for _ in range(n)]

    def documents(self, case: Case) -> list[Document]:
        """Documents with the shots in front of their contexts."""
        if self.options.task:
            return self._task_documents(case)
        shots = self.random_tokens(550 * case.n_shot)
        return [
            (
                tokens(shots + self.random_tokens(self.rng.randint(350, 650))),
                [tokens(self.random_tokens(self.rng.randint(4, 20))) for _ in range(4)],
            )
            for _ in range(case.n_docs)
        ]

    def _task_documents(self, case: Case) -> list[Document]:
        from harness.evaluate import load_tasks

        (task,) = load_tasks([self.options.task], RunSpec(model="bench", n_shot=case.n_shot)).values()
        task.build_all_requests(limit=case.n_docs)
        parts = Encoder(self.tokenizer, self.config).pairs([request.args for request in task.instances])
        found: dict[int, Document] = {}
        for request, part in zip(task.instances, parts, strict=True):
            found.setdefault(request.doc_id, (part.context, []))[1].append(part.continuation)
        return list(found.values())

    # Measuring.

    def rows(self) -> list[Row]:
        """All cases through lm-eval's backend first: the engine changes the model's modules."""
        options = self.options
        cases = {str(case): (case, self.documents(case)) for case in options.cases}
        asked = options.generate
        prompts = [
            self.tokenizer.decode(self.random_tokens(self.rng.randint(300, 700)))
            for _ in range(asked.n_docs if asked else 0)
        ]
        theirs = {
            (name, size): self._hf_scores(documents, size)
            for name, (case, documents) in cases.items()
            for size in case.hf_batch
        }
        written = {size: self._hf_texts(prompts, size) for size in (asked.hf_batch if asked else ())}
        exact = self._exact_scores(next(iter(cases.values()))[1]) if options.reference else None

        engine = EngineLM(self.model, self.tokenizer)
        engine._max_length = LONGEST
        found = []
        for number, (name, (case, documents)) in enumerate(cases.items()):
            hf = {size: theirs[name, size] for size in case.hf_batch}
            found += self._scoring(engine, name, documents, hf, None if number else exact)
        if prompts:
            found += self._generation(engine, prompts, written)
        return found

    def _scoring(
        self,
        engine: EngineLM,
        case: str,
        documents: Sequence[Document],
        hf: dict[int, tuple[list[tuple[float, bool]], float, float | None]],
        exact: np.ndarray | None,
    ) -> list[Row]:
        if self.device.type == "cuda":
            self._engine_scores(engine, documents)
            engine.forget()
        (ours, n_distinct), seconds, peak = self.timed(lambda: self._engine_scores(engine, documents))
        floor = 2 * self.n_parameters * n_distinct / self.flops
        best = min((one[1] for one in hf.values()), default=None)
        rows = [Row(case, "engine", n_distinct, seconds, peak, floor / seconds, best and best / seconds)]
        n_computed = sum(len(context) + len(choice) - 1 for context, choices in documents for choice in choices)
        for size, (answers, hf_seconds, hf_peak) in hf.items():
            note = _differences(documents, ours, answers)
            rows.append(Row(case, f"lm-eval hf, batch {size}", n_computed, hf_seconds, hf_peak, note=note))
        if exact is not None:
            sides = {"engine": ours, **{f"hf, batch {size}": answers for size, (answers, _, _) in hf.items()}}
            errors = {way: np.abs(np.asarray([a[0] for a in one[: len(exact)]]) - exact) for way, one in sides.items()}
            note = "; ".join(f"{way} mean |Δ| {e.mean():.4f}, largest {e.max():.4f}" for way, e in errors.items())
            rows.append(Row(case, "against float32", 0, 0.0, note=note))
        return rows

    def _generation(
        self, engine: EngineLM, prompts: Sequence[str], hf: dict[int, tuple[list[str], float, float | None]]
    ) -> list[Row]:
        new = self.options.new_tokens
        instances = self._instances(prompts)
        planner = EnginePlanner(Encoder(self.tokenizer, self.config), self.budget)
        jobs = planner.jobs("generate_until", {str(number): each for number, each in enumerate(instances)})

        def ours() -> dict[str, str]:
            answers: dict[str, str] = {}
            for _, found in engine.work("generate_until", jobs):
                answers.update(found or {})
            return answers

        ours()
        said, seconds, peak = self.timed(ours)
        n_new, best = len(prompts) * new, min((one[1] for one in hf.values()), default=None)
        case = f"{len(prompts)} prompts"
        note = f"{n_new / seconds:,.0f} new tokens/s"
        rows = [Row(case, "engine", n_new, seconds, peak, None, best and best / seconds, note)]
        for size, (texts, hf_seconds, hf_peak) in hf.items():
            same = sum(said[str(number)] == text for number, text in enumerate(texts))
            note = f"{n_new / hf_seconds:,.0f} new tokens/s; {same} of {len(texts)} texts the same"
            rows.append(Row(case, f"lm-eval hf, batch {size}", n_new, hf_seconds, hf_peak, note=note))
        return rows

    def several(self) -> list[Row]:
        """All cases on one GPU and on several, each with a process of its own."""
        options, found = self.options, []
        batches = {str(case): plan(_units(self.documents(case)), self.budget.tokens) for case in options.cases}
        with tempfile.TemporaryDirectory() as scratch:
            base = locate_model(options.model) if options.model else self._saved(Path(scratch))
            self.model = None
            torch.cuda.empty_cache()
            alone: dict[str, tuple[dict[str, Any], float]] = {}
            for n in (1, options.gpus):
                spec = RunSpec(model=base.path, dtype=options.dtype, quantization=options.quantization)
                pool = ServerPool(spec, base, {}, [f"{self.device.type}:{number}" for number in range(n)])
                for case, jobs in batches.items():
                    # The first of them on every device: kernels are compiled.
                    list(pool.compute(None, "loglikelihood", [jobs[0]] * 2 * n))
                    start = time.perf_counter()
                    answers: dict[str, Any] = {}
                    for _, some in pool.compute(None, "loglikelihood", jobs):
                        answers.update(some or {})
                    seconds = time.perf_counter() - start
                    one, ratio, note = alone.get(case), None, ""
                    if one is not None:
                        largest = max(abs(score - one[0][key][0]) for key, (score, _) in answers.items())
                        ratio, note = one[1] / seconds, f"against one, largest |Δ| {largest:.2g}"
                    alone[case] = answers, seconds
                    found.append(Row(case, f"engine, {n} GPUs", _computed(jobs), seconds, ratio=ratio, note=note))
                pool.close()
        return found

    def _saved(self, directory: Path) -> Located:
        self.model.save_pretrained(directory)
        self.tokenizer.save_pretrained(directory)
        return Located(str(directory), None, "random")

    def timed(self, work: Callable[[], Any]) -> tuple[Any, float, float | None]:
        """What work returns, its seconds, and its peak of the device's memory in GiB."""
        cuda = self.device.type == "cuda"
        if cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        found = work()
        if cuda:
            torch.cuda.synchronize()
        seconds = time.perf_counter() - start
        return found, seconds, torch.cuda.max_memory_allocated() / 2**30 if cuda else None

    def _engine_scores(self, engine: EngineLM, documents: Sequence[Document]) -> tuple[list[tuple[float, bool]], int]:
        """Scores and greedy flags in the order of documents and choices, and how many tokens were computed."""
        units = _units(documents)
        batches = plan(units, self.budget.tokens)
        answers: dict[str, tuple[float, bool]] = {}
        for _, found in engine.work("loglikelihood", batches):
            answers.update(found or {})
        return [answers[key] for unit in units for key in unit.keys], _computed(batches)

    # lm-eval's own backend.

    def _hf(self, batch_size: int) -> HFBackend:
        hf = HFBackend(self.model, self.tokenizer)
        hf.batch_size_per_gpu, hf._max_length = batch_size, LONGEST
        return hf

    def _hf_scores(
        self, documents: Sequence[Document], batch_size: int
    ) -> tuple[list[tuple[float, bool]], float, float | None]:
        requests = [
            (("", ""), context.tolist(), choice.tolist()) for context, choices in documents for choice in choices
        ]
        hf = self._hf(batch_size)
        with torch.inference_mode():
            hf._loglikelihood_tokens(requests[:batch_size], disable_tqdm=True)
            return self.timed(lambda: hf._loglikelihood_tokens(requests, disable_tqdm=True))

    def _exact_scores(self, documents: Sequence[Document]) -> np.ndarray:
        """The same weights in float32, on the first documents."""
        # Parameters alone: what a model keeps in float32 beside them (rotary frequencies) must not be rounded.
        for parameter in self.model.parameters():
            parameter.data = parameter.data.float()
        answers, _, _ = self._hf_scores(documents[:16], 1)
        for parameter in self.model.parameters():
            parameter.data = parameter.data.to(self.dtype)
        return np.asarray([score for score, _ in answers])

    def _hf_texts(self, prompts: Sequence[str], batch_size: int) -> tuple[list[str], float, float | None]:
        hf = self._hf(batch_size)
        with torch.inference_mode():
            return self.timed(lambda: hf.generate_until(self._instances(prompts), disable_tqdm=True))

    def _instances(self, prompts: Sequence[str]) -> list[Instance]:
        settings = {"until": [], "max_gen_toks": self.options.new_tokens}
        return [Instance("generate_until", {}, (text, dict(settings)), number) for number, text in enumerate(prompts)]


def _units(documents: Sequence[Document]) -> list[Unit]:
    return [
        Unit(tuple(f"{n}:{c}" for c in range(len(choices))), tuple(Part(context, choice) for choice in choices))
        for n, (context, choices) in enumerate(documents)
    ]


def _computed(batches: Sequence[Batch]) -> int:
    """Tokens that batches compute: each segment once, where neighbours share it."""
    total = 0
    before: tuple[int, ...] = ()
    for batch in batches:
        total += batch.n_tokens
        if batch.cuts != before and batch.cuts:
            total += batch.cuts[-1]
        before = batch.cuts
    return total


def _differences(
    documents: Sequence[Document], ours: Sequence[tuple[float, bool]], theirs: Sequence[tuple[float, bool]]
) -> str:
    start, same = 0, 0
    for _, choices in documents:
        sides = ([score for score, _ in one[start : start + len(choices)]] for one in (ours, theirs))
        one, two = (max(range(len(scores)), key=scores.__getitem__) for scores in sides)
        same += one == two
        start += len(choices)
    pairs = list(zip(ours, theirs, strict=True))
    flags = sum(one[1] == two[1] for one, two in pairs)
    largest = max(abs(one[0] - two[0]) for one, two in pairs)
    return (
        f"same choice {same} of {len(documents)}, same greedy flag {flags} of {len(pairs)}, largest |Δ| {largest:.2g}"
    )


def word_tokenizer(vocab_size: int) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers

    special = ["<unk>", "<s>", "</s>"]
    names = [*special, *(f"t{number}" for number in range(len(special), vocab_size))]
    words = Tokenizer(models.WordLevel({name: number for number, name in enumerate(names)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )


def _case(text: str) -> Case:
    head, at, sizes = text.partition("@")
    shots, cross, documents = head.partition("x")
    if not (cross and shots.isdigit() and documents.isdigit() and int(documents)):
        raise argparse.ArgumentTypeError(f"{text!r} isn't SHOTSxDOCUMENTS@BATCH,BATCH. Try: 5x100@8,16")
    return Case(int(shots), int(documents), _sizes(sizes) if at else (8,))


def _prompts(text: str) -> Case:
    head, at, sizes = text.partition("@")
    if not (head.isdigit() and int(head)):
        raise argparse.ArgumentTypeError(f"{text!r} isn't PROMPTS@BATCH,BATCH. Try: 128@64,128")
    return Case(0, int(head), _sizes(sizes) if at else (8,))


def _sizes(text: str) -> tuple[int, ...]:
    return tuple(int(size) for size in text.split(",") if size)


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m harness.engine.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*", type=_case, metavar="SHOTSxDOCUMENTS@BATCHES", help="such as 5x100@8,16")
    parser.add_argument("--model", help="directory, packaged model or hub id; without it random weights of --shape")
    parser.add_argument("--shape", choices=sorted(SHAPES), default="tiny")
    parser.add_argument("--quantization", choices=("none", "int8", "nf4"), default="none")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--task", help="documents of this task instead of random ones")
    parser.add_argument("--generate", type=_prompts, metavar="PROMPTS@BATCHES", help="time answers too: 128@64,128")
    parser.add_argument("--new-tokens", type=int, default=128, help="of each answer")
    parser.add_argument("--budget", type=int, help="distinct tokens a batch, instead of the measured")
    parser.add_argument("--gpus", type=int, default=1, help="the engine on one and on so many, nothing else")
    parser.add_argument("--reference", action="store_true", help="hold both to the same weights in float32")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    options = parser.parse_args(arguments)
    options.cases = options.cases or ([] if options.generate else [Case(0, 40)])
    names = [str(case) for case in options.cases]
    if len(set(names)) < len(names):
        parser.error("a case is named twice: write its batch sizes behind one @, such as 5x100@8,16")
    if options.reference and (not options.cases or options.quantization != "none"):
        parser.error("--reference wants a case such as 0x40, and weights that aren't quantized")
    return options


def main(arguments: Sequence[str]) -> int:
    """Measures and prints a table; returns the exit code."""
    os.environ.setdefault("TQDM_DISABLE", "1")
    options = _options(arguments)
    try:
        bench = Bench(options)
    except UzBenchError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    rows = bench.several() if options.gpus > 1 else bench.rows()
    title = f"{options.model or options.shape}, {str(bench.dtype).removeprefix('torch.')}, {options.quantization}"
    if options.json:
        print(json.dumps({"of": title, "flops": bench.flops, "rows": [asdict(row) for row in rows]}))
        return 0
    print(f"{title}; matrix product {bench.flops / 1e12:.2f} TFLOP/s; batches of {bench.budget.tokens:,} tokens\n")
    print(f"| | | tokens | seconds | peak GiB | of the floor | faster than {'one' if options.gpus > 1 else 'hf'} | |")
    print("| --- | --- | --: | --: | --: | --: | --: | --- |")
    for row in rows:
        cells = (
            row.case, row.way, f"{row.n_tokens:,}" if row.n_tokens else "", f"{row.seconds:.2f}" if row.seconds else "",
            f"{row.peak_gib:.1f}" if row.peak_gib else "", f"{100 * row.share:.0f} %" if row.share else "",
            f"{row.ratio:.1f} ×" if row.ratio else "", row.note,
        )  # fmt: skip
        print(f"| {' | '.join(cells)} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
