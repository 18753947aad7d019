"""How fast the engine is beside lm-eval's own backend: the same requests, one run, one machine.

    python -m harness.engine.bench 0x40 3x20
    python -m harness.engine.bench 5x100 --model gemma-3-270m --task uz_topic
    python -m harness.engine.bench 5x100 0x200 --shape mistral-7b --hf-batch 8,16,32 --reference
    python -m harness.engine.bench --generate 128 --shape mistral-7b --hf-batch 64,128
    python -m harness.engine.bench 0x100 0x1000 0x10000 --hf-batch ''

A case is SHOTSxDOCUMENTS. Without --task, documents are random tokens: shots of 550, documents of 350 to 650, four
choices of 4 to 20. The floor is the arithmetic of the weights alone on each distinct token (twice the parameters of
the layers), at the speed at which this device multiplies two large matrices; attention, the output head and all else
come on top.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from lm_eval.api.instance import Instance
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from harness.engine.identity import locate_model
from harness.engine.jobs import EnginePlanner
from harness.engine.lm import EngineLM, HFBackend
from harness.engine.load import CPU_BYTES, measured_budget, quantization_config, resolved_dtype
from harness.engine.plan import Batch, Part, Unit, plan
from harness.engine.tokens import Encoder
from harness.engine.tree import Tokens, tokens
from harness.errors import UzBenchError
from harness.records import QUANTIZATIONS, RunSpec

SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {"model_type": "llama", "vocab_size": 4096, "hidden_size": 128, "intermediate_size": 256,
             "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2},
    "mistral-7b": {"model_type": "mistral", "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336,
                   "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
                   "sliding_window": None},
}  # fmt: skip
"""Shapes of random weights; all take 32,768 positions."""

LONGEST = 32768

Document = tuple[Tokens, list[Tokens]]
"""A context and its choices."""


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
        self.flops = _flops(self.device, self.dtype)

    def _model(self) -> tuple[Any, Any]:
        options = self.options
        quantization = quantization_config(options.quantization, self.dtype)
        if options.model:
            path = locate_model(options.model).path
            model = AutoModelForCausalLM.from_pretrained(
                path, dtype=self.dtype, quantization_config=quantization, device_map={"": self.device}
            )
            return model.eval(), AutoTokenizer.from_pretrained(path)
        torch.manual_seed(0)
        config = AutoConfig.for_model(**SHAPES[options.shape], max_position_embeddings=LONGEST)
        with self.device:
            model = AutoModelForCausalLM.from_config(config, dtype=self.dtype).eval()
        if quantization is not None:
            _quantize(model, self.dtype)
        return model, _word_tokenizer(config.vocab_size)

    # What is asked.

    def random_tokens(self, n: int) -> list[int]:
        return [self.rng.randrange(3, self.config.vocab_size) for _ in range(n)]

    def documents(self, n_shot: int, n_docs: int) -> list[Document]:
        """Documents with the shots in front of their contexts."""
        if self.options.task:
            return self._task_documents(n_shot, n_docs)
        shots = self.random_tokens(550 * n_shot)
        return [
            (
                tokens(shots + self.random_tokens(self.rng.randint(350, 650))),
                [tokens(self.random_tokens(self.rng.randint(4, 20))) for _ in range(4)],
            )
            for _ in range(n_docs)
        ]

    def _task_documents(self, n_shot: int, n_docs: int) -> list[Document]:
        from harness.evaluate import load_tasks

        (task,) = load_tasks([self.options.task], RunSpec(model="bench", n_shot=n_shot)).values()
        task.build_all_requests(limit=n_docs)
        parts = Encoder(self.tokenizer, self.config).pairs([request.args for request in task.instances])
        found: dict[int, Document] = {}
        for request, part in zip(task.instances, parts, strict=True):
            found.setdefault(request.doc_id, (part.context, []))[1].append(part.continuation)
        return list(found.values())

    # Measuring.

    def rows(self) -> list[Row]:
        """All cases through lm-eval's backend first: the engine changes the model's modules."""
        options = self.options
        cases = {f"{n_shot} shots × {n_docs}": self.documents(n_shot, n_docs) for n_shot, n_docs in options.cases}
        prompts = [self.tokenizer.decode(self.random_tokens(self.rng.randint(300, 700)))
                   for _ in range(options.generate)]  # fmt: skip
        theirs = {
            (case, size): self._hf_scores(documents, size)
            for case, documents in cases.items()
            for size in options.hf_batch
        }
        written = {size: self._hf_texts(prompts, size) for size in options.hf_batch if prompts}
        exact = self._exact_scores(next(iter(cases.values()))) if options.reference else None

        engine = EngineLM(self.model, self.tokenizer)
        engine._max_length = LONGEST
        found = []
        for number, (case, documents) in enumerate(cases.items()):
            hf = {size: theirs[case, size] for size in options.hf_batch}
            found += self._scoring(engine, case, documents, hf, None if number else exact)
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
        self._engine_scores(engine, documents[:40])  # warms up
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
        units = [
            Unit(tuple(f"{n}:{c}" for c in range(len(choices))), tuple(Part(context, choice) for choice in choices))
            for n, (context, choices) in enumerate(documents)
        ]
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
        self.model.float()
        answers, _, _ = self._hf_scores(documents[:16], 1)
        self.model.to(self.dtype)
        return np.asarray([score for score, _ in answers])

    def _hf_texts(self, prompts: Sequence[str], batch_size: int) -> tuple[list[str], float, float | None]:
        hf = self._hf(batch_size)
        with torch.inference_mode():
            return self.timed(lambda: hf.generate_until(self._instances(prompts), disable_tqdm=True))

    def _instances(self, prompts: Sequence[str]) -> list[Instance]:
        settings = {"until": [], "max_gen_toks": self.options.new_tokens}
        return [Instance("generate_until", {}, (text, dict(settings)), number) for number, text in enumerate(prompts)]


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


def _flops(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations a second of a large matrix product."""
    size, repeats = (8192, 10) if device.type == "cuda" else (2048, 3)
    one, two = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    seconds = []
    for n in (1, repeats):
        start = time.perf_counter()
        for _ in range(n):
            product = one @ two
        product[0, 0].item()  # waits for it
        seconds.append((time.perf_counter() - start) / n)
    return 2 * size**3 / seconds[-1]


def _quantize(model: Any, dtype: torch.dtype) -> None:
    """Makes the layers' products NF4 with double quantization, as bitsandbytes loads them."""
    import bitsandbytes as bnb

    for parent in list(model.model.layers.modules()):
        for name, module in list(parent.named_children()):
            if type(module) is not torch.nn.Linear:
                continue
            made = bnb.nn.Linear4bit(
                module.in_features,
                module.out_features,
                bias=False,
                compute_dtype=dtype,
                quant_type="nf4",
                device="meta",
            )
            made.weight = bnb.nn.Params4bit(module.weight.data, requires_grad=False, quant_type="nf4")
            setattr(parent, name, made.to(module.weight.device))


def _word_tokenizer(vocab_size: int) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers

    special = ["<unk>", "<s>", "</s>"]
    names = [*special, *(f"t{number}" for number in range(len(special), vocab_size))]
    words = Tokenizer(models.WordLevel({name: number for number, name in enumerate(names)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )


def _case(text: str) -> tuple[int, int]:
    shots, cross, documents = text.partition("x")
    if not (cross and shots.isdigit() and documents.isdigit() and int(documents)):
        raise argparse.ArgumentTypeError(f"{text!r} isn't SHOTSxDOCUMENTS. Try: 5x100")
    return int(shots), int(documents)


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m harness.engine.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", nargs="*", type=_case, metavar="SHOTSxDOCUMENTS", help="5x100: 5 shots, 100 documents")
    parser.add_argument("--model", help="directory, packaged model or hub id; without it random weights of --shape")
    parser.add_argument("--shape", choices=sorted(SHAPES), default="tiny")
    parser.add_argument("--quantization", choices=QUANTIZATIONS, default="none")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--task", help="documents of this task instead of random ones")
    parser.add_argument("--generate", type=int, default=0, metavar="N", help="time answers to N prompts too")
    parser.add_argument("--new-tokens", type=int, default=128, help="of each answer")
    parser.add_argument("--budget", type=int, help="distinct tokens a batch, instead of the measured")
    parser.add_argument("--hf-batch", default="8", help="batch sizes of lm-eval's backend, by comma; empty: not timed")
    parser.add_argument("--reference", action="store_true", help="hold both to the same weights in float32")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    options = parser.parse_args(arguments)
    options.hf_batch = [int(size) for size in options.hf_batch.split(",") if size]
    options.cases = options.cases or ([] if options.generate else [(0, 40)])
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
    rows = bench.rows()
    title = f"{options.model or options.shape}, {str(bench.dtype).removeprefix('torch.')}, {options.quantization}"
    if options.json:
        print(json.dumps({"of": title, "flops": bench.flops, "rows": [asdict(row) for row in rows]}))
        return 0
    print(f"{title}; matrix product {bench.flops / 1e12:.2f} TFLOP/s; batches of {bench.budget.tokens:,} tokens\n")
    print("| | | tokens | seconds | peak GiB | of the floor | faster than hf | |")
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
