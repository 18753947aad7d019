"""Full weights of an adapter: merged into the base as it was trained, checked, whole or not there.

Tiny models for most; tests marked `model` tune a small real one for a few steps.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import save_tiny
from hub_server import HubServer
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from harness.cli import run_command
from harness.engine.identity import locate_model
from harness.engine.packaged import GEMMA, SMOLLM2
from harness.errors import DataError, DiskFullError, ModelError, NetworkError, UnknownNameError, UsageError
from harness.evaluate import run
from harness.manifest import MANIFEST, Manifest, read_merged, write_manifest
from harness.records import RunSpec
from train import merging
from train.gguf import converter, to_gguf
from train.merging import merge
from train.publish import push

IDS = torch.tensor([[5, 6, 7, 8, 9, 400, 41]])


def made_adapter(folder: Path, base: Path, *, quantization: str | None = "none", seed: int = 3, **config: Any) -> Path:
    """An adapter with random weights and a manifest, which None leaves out."""
    torch.manual_seed(seed)
    chosen = {"r": 4, "target_modules": ["q_proj", "v_proj", "down_proj"], "init_lora_weights": False, **config}
    model = AutoModelForCausalLM.from_pretrained(base)
    tuned = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **chosen))
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            # Modules that are trained whole, and biases, begin as the base's own.
            if parameter.requires_grad and "lora_" not in name:
                parameter.add_(0.02 * torch.randn_like(parameter))
    tuned.save_pretrained(folder)
    if quantization is not None:
        write_manifest(folder, manifest_of(base, quantization))
    return folder


def manifest_of(base: Path, quantization: str) -> Manifest:
    return Manifest(
        base_model=str(base),
        base_revision=None,
        base_digest=locate_model(str(base)).weights,
        quantization=quantization,
        dtype="float32",
        prompt_format="alpaca",
        data="rows.jsonl",
        data_sha256="aa",
        n_rows=8,
        n_dropped={},
        n_tokens=100,
        n_trained_tokens=10,
        steps=3,
        seconds=1.0,
        created="2026-01-01T00:00:00Z",
        recipe={},
    )


@torch.inference_mode()
def logits(model: Any) -> torch.Tensor:
    return model.eval()(IDS).logits


def on_base(base: Path, adapter: Path, quantization: str = "none") -> torch.Tensor:
    from harness.engine.load import quantization_config, settled

    loaded = AutoModelForCausalLM.from_pretrained(
        base, dtype=torch.float32, quantization_config=quantization_config(quantization, torch.float32)
    )
    return logits(PeftModel.from_pretrained(settled(loaded, quantization), adapter))


def read_back(directory: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ---------------------------------------------------------------- what is merged into what


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("quantization", ["none", "nf4", "int8"])
def test_merged_weights_answer_as_the_adapter_on_its_base(
    tiny: Path, tmp_path: Path, quantization: str, dtype: str
) -> None:
    adapter = made_adapter(tmp_path / "adapter", tiny, quantization=quantization)
    done = merge(adapter, tmp_path / "out", dtype=dtype, progress=False)
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {getattr(torch, dtype)}
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert "quantization_config" not in config
    assert config["dtype"] == dtype
    apart = (logits(read_back(tmp_path / "out")) - on_base(tiny, adapter, quantization)).abs().mean()
    assert apart < {"none": 1e-5, "nf4": 1e-5, "int8": 0.05}[quantization] + (0.02 if dtype == "bfloat16" else 0)
    assert done.merged.quantization == quantization
    assert done.merged.dtype == dtype
    assert done.merged.difference.same_argmax > 0.9
    assert (done.merged.activations > 0) == (quantization == "int8")


def test_nf4_base_is_quantized_dequantized_and_only_then_added_to(tiny: Path, tmp_path: Path) -> None:
    from bitsandbytes import functional

    adapter = made_adapter(tmp_path / "adapter", tiny, quantization="nf4")
    merge(adapter, tmp_path / "out", dtype="float32", progress=False)
    layer = "model.layers.1.self_attn.q_proj"
    base, made = load_file(tiny / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    tuned = load_file(adapter / "adapter_model.safetensors")
    a, b = (tuned[f"base_model.model.{layer}.lora_{side}.weight"] for side in "AB")
    packed, state = functional.quantize_4bit(base[f"{layer}.weight"], quant_type="nf4", compress_statistics=True)
    by_hand = functional.dequantize_4bit(packed, state) + 8 / 4 * b @ a
    assert torch.allclose(made[f"{layer}.weight"], by_hand, atol=1e-6)
    assert not torch.allclose(made[f"{layer}.weight"], base[f"{layer}.weight"] + 8 / 4 * b @ a, atol=1e-3)
    # A layer without an adapter is the dequantized one too.
    packed, state = functional.quantize_4bit(
        base["model.layers.0.mlp.up_proj.weight"], quant_type="nf4", compress_statistics=True
    )
    assert torch.allclose(made["model.layers.0.mlp.up_proj.weight"], functional.dequantize_4bit(packed, state))


@pytest.mark.parametrize(
    "config",
    [
        {"use_rslora": True},
        {"rank_pattern": {"q_proj": 8}, "alpha_pattern": {"v_proj": 32}},
        {"use_dora": True},
        {"modules_to_save": ["lm_head"]},
        {"modules_to_save": ["embed_tokens", "lm_head"]},
        {"target_modules": ["q_proj", "embed_tokens"]},
        {"target_modules": ["q_proj", "lm_head"]},
        {"trainable_token_indices": [5, 6]},
    ],
    ids=str,
)
@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_every_form_of_lora_is_merged_right(
    tiny: Path, tmp_path: Path, config: dict[str, Any], quantization: str
) -> None:
    adapter = made_adapter(tmp_path / "adapter", tiny, quantization=quantization, **config)
    merge(adapter, tmp_path / "out", progress=False)
    wanted = on_base(tiny, adapter, quantization)
    assert torch.allclose(logits(read_back(tmp_path / "out")), wanted, atol=1e-4)
    bare = logits(read_back(tiny))
    assert (wanted - bare).abs().max() > 0.01


@pytest.mark.parametrize("config", [{"lora_bias": True}, {"bias": "lora_only"}], ids=str)
def test_biases_that_were_trained_are_merged(tmp_path: Path, tokenizer_directory: Path, config: dict[str, Any]) -> None:
    base = save_tiny(tmp_path / "phi", tokenizer_directory, "phi")
    adapter = made_adapter(tmp_path / "adapter", base, target_modules=["q_proj", "v_proj"], **config)
    merge(adapter, tmp_path / "out", progress=False)
    assert torch.allclose(logits(read_back(tmp_path / "out")), on_base(base, adapter), atol=1e-4)


@pytest.mark.parametrize("kind", ["gemma3_text", "gpt2"])
def test_other_architectures_are_merged(tmp_path: Path, tokenizer_directory: Path, kind: str) -> None:
    base = save_tiny(tmp_path / "base", tokenizer_directory, kind)
    layers = ["c_attn"] if kind == "gpt2" else ["q_proj", "down_proj"]
    adapter = made_adapter(tmp_path / "adapter", base, target_modules=layers, fan_in_fan_out=kind == "gpt2")
    merge(adapter, tmp_path / "out", progress=False)
    assert torch.allclose(logits(read_back(tmp_path / "out")), on_base(base, adapter), atol=1e-4)


def test_tied_embeddings_stay_tied_where_the_adapter_leaves_them_alone(tiny: Path, tmp_path: Path) -> None:
    merge(made_adapter(tmp_path / "adapter", tiny), tmp_path / "out", progress=False)
    assert "lm_head.weight" not in load_file(tmp_path / "out" / "model.safetensors")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"]


def test_auto_keeps_the_dtype_of_the_base(tiny: Path, tmp_path: Path) -> None:
    base = tmp_path / "bf16"
    AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.bfloat16).save_pretrained(base)
    AutoTokenizer.from_pretrained(tiny).save_pretrained(base)
    adapter = made_adapter(tmp_path / "adapter", base)
    assert merge(adapter, tmp_path / "out", progress=False).merged.dtype == "bfloat16"


def test_tokenizer_and_generation_settings_come_along(tiny: Path, tmp_path: Path) -> None:
    merge(made_adapter(tmp_path / "adapter", tiny), tmp_path / "out", progress=False)
    one, two = (AutoTokenizer.from_pretrained(place) for place in (tiny, tmp_path / "out"))
    text = "### Instruction:\nOʻzbekiston poytaxti?\n\n### Response:\n"
    assert one.encode(text) == two.encode(text)
    assert one.chat_template == two.chat_template
    assert (tmp_path / "out" / "generation_config.json").is_file()


def test_manifest_says_what_was_merged_and_how_far_it_is_from_the_adapter(tiny: Path, tmp_path: Path) -> None:
    adapter = made_adapter(tmp_path / "adapter", tiny, quantization="nf4")
    done = merge(adapter, tmp_path / "out", dtype="bfloat16", progress=False)
    read = read_merged(tmp_path / "out")
    assert read == done.merged
    assert read is not None
    assert read.trained == manifest_of(tiny, "nf4")
    assert read.base_digest == locate_model(str(tiny)).weights
    assert 0 < read.difference.mean <= read.rounding
    assert read.notes == ()
    assert "merged_from" in json.loads((tmp_path / "out" / MANIFEST).read_text())
    assert read_merged(adapter) is None


# ---------------------------------------------------------------- the check


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_nf4_adapter_merged_into_the_float_base_would_be_refused(
    tiny: Path, tmp_path: Path, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = made_adapter(tmp_path / "adapter", tiny, quantization="nf4")
    monkeypatch.setattr(merging, "_dequantized", lambda model: read_back(tiny))
    with pytest.raises(ModelError, match=r"off by .* where rounding explains"):
        merge(adapter, tmp_path / "out", dtype=dtype, progress=False)
    assert left_in(tmp_path) == ["adapter"]


@pytest.mark.parametrize(("dtype", "strength"), [("float32", 0.999), ("bfloat16", 0.5)])
def test_adapter_of_the_wrong_strength_would_be_refused(
    tiny: Path, tmp_path: Path, dtype: str, strength: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = made_adapter(tmp_path / "adapter", tiny, lora_alpha=64)
    merged = merging._merged

    def weaker(tuned: Any, *rest: Any) -> Any:
        for module in tuned.modules():
            if isinstance(module, LoraLayer):
                module.scaling["default"] *= strength
        return merged(tuned, *rest)

    monkeypatch.setattr(merging, "_merged", weaker)
    with pytest.raises(ModelError, match="Nothing was written"):
        merge(adapter, tmp_path / "out", dtype=dtype, progress=False)


def test_file_that_was_written_wrong_would_be_refused(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = made_adapter(tmp_path / "adapter", tiny)
    load = merging._load

    def spoiled(path: str, *rest: Any) -> Any:
        if path != str(tiny):
            file = Path(path) / "model.safetensors"
            tensors = load_file(file)
            tensors["model.layers.2.mlp.up_proj.weight"].zero_()
            save_file(tensors, file, {"format": "pt"})
        return load(path, *rest)

    monkeypatch.setattr(merging, "_load", spoiled)
    with pytest.raises(ModelError, match="off by"):
        merge(adapter, tmp_path / "out", progress=False)


# ---------------------------------------------------------------- what can't be merged, in one line


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"peft_type": "IA3"}, "of the kind IA3, only LORA"),
        ({"layer_replication": [[0, 2], [1, 3]]}, "repeats layers"),
        ({"alora_invocation_tokens": [5]}, "works from a token on"),
    ],
    ids=str,
)
def test_kind_that_is_no_sum_of_weights_is_refused_by_name(
    tiny: Path, tmp_path: Path, changed: dict[str, Any], said: str
) -> None:
    adapter = made_adapter(tmp_path / "adapter", tiny)
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))
    with pytest.raises(ModelError, match=said):
        merge(adapter, tmp_path / "out", progress=False)


def test_adapter_without_a_manifest_is_merged_into_the_base_it_names_with_a_note(tiny: Path, tmp_path: Path) -> None:
    done = merge(made_adapter(tmp_path / "adapter", tiny, quantization=None), tmp_path / "out", progress=False)
    assert done.merged.base_model == str(tiny)
    assert done.merged.quantization == "none"
    assert done.merged.trained is None
    assert "no manifest" in done.merged.notes[0]


def test_base_is_found_by_model_where_it_has_moved(tiny: Path, tmp_path: Path) -> None:
    adapter = made_adapter(tmp_path / "adapter", tiny)
    write_manifest(adapter, replace(manifest_of(tiny, "none"), base_model=str(tmp_path / "gone")))
    with pytest.raises(ModelError, match=r"no such directory.*--model BASE"):
        merge(adapter, tmp_path / "out", progress=False)
    assert merge(adapter, tmp_path / "out", model=str(tiny), progress=False).merged.base_model == str(tiny)


def test_another_base_than_it_was_trained_on_is_refused(tiny: Path, tmp_path: Path, tokenizer_directory: Path) -> None:
    other = save_tiny(tmp_path / "other", tokenizer_directory, seed=9)
    with pytest.raises(ModelError, match="was trained on"):
        merge(made_adapter(tmp_path / "adapter", tiny), tmp_path / "out", model=str(other), progress=False)


@pytest.mark.parametrize("fault", ["cut", "other shape", "nan", "no JSON"])
def test_damaged_adapter_is_one_line(tiny: Path, tmp_path: Path, fault: str) -> None:
    adapter = made_adapter(tmp_path / "adapter", tiny)
    weights = adapter / "adapter_model.safetensors"
    tensors = load_file(weights)
    if fault == "cut":
        weights.write_bytes(weights.read_bytes()[:5000])
    elif fault == "other shape":
        save_file({name: tensor[:, :3].clone() for name, tensor in tensors.items()}, weights)
    elif fault == "nan":
        save_file({name: tensor * float("nan") for name, tensor in tensors.items()}, weights)
    else:
        (adapter / "adapter_config.json").write_text("{")
    with pytest.raises((ModelError, DataError)) as caught:
        merge(adapter, tmp_path / "out", progress=False)
    assert "\n" not in str(caught.value)
    assert left_in(tmp_path) == ["adapter"]


def test_unknown_dtype_is_refused(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="dtype 'bfloat'"):
        merge("adapter", tmp_path / "out", dtype="bfloat")


# ---------------------------------------------------------------- whole or not there


def test_place_that_holds_something_else_is_left_alone(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("x")
    with pytest.raises(UsageError, match="left alone"):
        merge("adapter", out)
    assert left_in(out) == ["notes.txt"]
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="left alone"):
        merge("adapter", tmp_path / "file")


def test_earlier_merge_stays_until_the_new_one_is_whole(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter, out = made_adapter(tmp_path / "adapter", tiny), tmp_path / "out"
    first = merge(adapter, out, progress=False).merged

    def full(directory: Path, _: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as planted:
        planted.setattr(merging, "write_merged", full)
        with pytest.raises(DiskFullError):
            merge(adapter, out, dtype="bfloat16", progress=False)
    assert read_merged(out) == first
    merge(adapter, out, dtype="bfloat16", progress=False)
    assert left_in(tmp_path) == ["adapter", "out"]
    found = read_merged(out)
    assert found is not None
    assert found.dtype == "bfloat16"
    assert stat.S_IMODE(out.stat().st_mode) == 0o777 & ~umask()


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


# ---------------------------------------------------------------- the command


def test_command_prints_the_directory_and_what_was_measured(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = made_adapter(tmp_path / "adapter", tiny, quantization="int8")
    assert run_command(["merge", str(adapter), "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr()
    assert printed.out == f"{tmp_path / 'out'}\n"
    assert "Logits at 128 places of Uzbek text" in printed.err
    assert "int8's rounded activations" in printed.err


@pytest.mark.parametrize("options", [["--gguf"], ["--push-to-hub", "a/b/c"], ["--push-to-hub", "a/b"]], ids=" ".join)
def test_what_would_fail_at_the_end_is_told_before_torch_is_loaded(
    tiny: Path, tmp_path: Path, options: list[str]
) -> None:
    adapter = made_adapter(tmp_path / "adapter", tiny)
    code = "import sys\nfrom harness.cli import run_command\ncode = run_command(sys.argv[1:])\n"
    code += "sys.exit(99 if 'torch' in sys.modules else code)"
    environment = {**os.environ, "PATH": "/nowhere", "HF_HOME": str(tmp_path), "HF_TOKEN": ""}
    done = subprocess.run(
        [sys.executable, "-c", code, "merge", str(adapter), "--out", str(tmp_path / "out"), *options],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------- GGUF

CONVERTER = """#!{python}
import json, sys
from pathlib import Path
place, *options = sys.argv[1:]
options = dict(zip(options[::2], options[1::2]))
config = json.loads((Path(place) / "config.json").read_text())
if config["model_type"] != "llama":
    sys.exit("ERROR: Model " + config["architectures"][0] + " is not supported")
Path(options["--outfile"]).write_bytes(b"GGUF" + options["--outtype"].encode())
{end}
"""


def installed(folder: Path, end: str = "") -> Path:
    """A script in the converter's place, which reads the directory and writes a file."""
    folder.mkdir()
    script = folder / "convert_hf_to_gguf.py"
    script.write_text(CONVERTER.format(python=sys.executable, end=end))
    script.chmod(0o755)
    return folder


@pytest.mark.parametrize(("dtype", "name"), [("float32", "model-f16.gguf"), ("bfloat16", "model-bf16.gguf")])
def test_gguf_is_written_by_the_converter_on_the_path(
    tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    dtype: str,
    name: str,
) -> None:
    monkeypatch.setenv("PATH", str(installed(tmp_path / "bin")), prepend=os.pathsep)
    adapter, out = made_adapter(tmp_path / "adapter", tiny), tmp_path / "out"
    assert run_command(["merge", str(adapter), "--out", str(out), "--gguf", "--dtype", dtype]) == 0
    assert capsys.readouterr().out == f"{out}\n{out / name}\n"
    assert (out / name).read_bytes() == b"GGUF" + name[6:-5].encode()


def test_converter_is_found_in_the_directory_that_the_variable_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("LLAMA_CPP", raising=False)
    with pytest.raises(UsageError, match="git clone"):
        converter()
    monkeypatch.setenv("LLAMA_CPP", str(installed(tmp_path / "llama.cpp")))
    assert converter() == [sys.executable, str(tmp_path / "llama.cpp" / "convert_hf_to_gguf.py")]


@pytest.mark.parametrize(
    ("model_type", "end", "error", "said"),
    [
        ("gpt2", "", ModelError, "ERROR: Model X is not supported"),
        ("llama", "sys.exit('OSError: [Errno 28] No space left on device')", DiskFullError, "no space left"),
        ("llama", "Path(options['--outfile']).unlink()", ModelError, "made no GGUF file"),
    ],
)
def test_converter_that_fails_leaves_no_half_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_type: str, end: str, error: type[Exception], said: str
) -> None:
    monkeypatch.setenv("PATH", str(installed(tmp_path / "bin", end)), prepend=os.pathsep)
    place = tmp_path / "place"
    place.mkdir()
    (place / "config.json").write_text(json.dumps({"model_type": model_type, "architectures": ["X"]}))
    with pytest.raises(error, match=said):
        to_gguf(place, "float32")
    assert left_in(place) == ["config.json"]


# ---------------------------------------------------------------- the hub

SECRET = "hf_planted_secret"


def pushed(place: Path, endpoint: str) -> subprocess.CompletedProcess[str]:
    """push() as a process of its own: the hub library reads its address when it is imported."""
    code = (
        "import sys\nfrom pathlib import Path\nfrom harness.errors import UzBenchError\n"
        "from train.publish import push\n"
        "try:\n    print(push(Path(sys.argv[1]), 'owner/name'))\n"
        "except UzBenchError as error:\n    print(error, file=sys.stderr)\n    sys.exit(error.exit_code)\n"
    )
    environment = {
        **os.environ,
        "HF_ENDPOINT": endpoint,
        "HF_TOKEN": SECRET,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    return subprocess.run([sys.executable, "-c", code, str(place)], env=environment, capture_output=True, text=True)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    folder = tmp_path / "place"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "README.md").write_text("# oʻzbekcha")
    return folder


def test_directory_is_uploaded_to_a_private_repository_and_the_token_never_printed(place: Path) -> None:
    with HubServer() as server:
        done = pushed(place, server.url)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{server.url}/owner/name\n"
    assert server.created.get("visibility") == "private" or server.created.get("private") is True
    assert server.files == {"config.json": b"{}", "README.md": "# oʻzbekcha".encode()}
    # huggingface_hub counts its users by requests of their own, which carry no token.
    ours = [(path, headers) for _, path, headers in server.requests if "telemetry" not in path]
    assert [path for path, headers in ours if headers.get("authorization") != f"Bearer {SECRET}"] == []
    assert SECRET not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("status", "exit_code", "said"),
    [(401, 2, "doesn't know the token"), (403, 2, "may not write to owner/name"), (500, 3, r"pushed (500)")],
)
def test_refusal_of_the_hub_is_one_line(place: Path, status: int, exit_code: int, said: str) -> None:
    with HubServer(fault=status) as server:
        done = pushed(place, server.url)
    assert done.returncode == exit_code, done.stderr
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert SECRET not in done.stderr


def test_hub_without_a_network_is_the_environments_fault(place: Path) -> None:
    done = pushed(place, "http://127.0.0.1:9")
    assert done.returncode == NetworkError.exit_code, done.stderr
    assert "can't be reached" in done.stderr
    assert done.stderr.count("\n") == 1


def test_pushing_without_a_token_or_offline_says_what_to_set(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setenv("HF_TOKEN", SECRET)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match="unset HF_HUB_OFFLINE"):
        push(place, "owner/name")
    monkeypatch.setattr("train.publish.get_token", lambda: None)
    with pytest.raises(UsageError, match="export HF_TOKEN"):
        push(place, "owner/name")
    with pytest.raises(UsageError, match="expected OWNER/NAME"):
        push(place, "owner/name/more")


# ---------------------------------------------------------------- small real models


def tuned(folder: Path, model: str, **values: Any) -> tuple[Path, torch.Tensor]:
    """An adapter of a few steps, and the logits of the model in memory when it was saved."""
    from train.qlora import train
    from train.recipe import read_recipe

    recipe = Path(merging.__file__).parent / "recipes" / "demo_cpu.yaml"
    chosen = {"model": model, "out": folder / "adapter", "max_steps": 3, **values}
    seen, save = [], PeftModel.save_pretrained

    def spy(model: Any, *arguments: Any, **options: Any) -> None:
        seen.append(logits(model))
        save(model, *arguments, **options)

    with pytest.MonkeyPatch.context() as planted:
        planted.setattr(PeftModel, "save_pretrained", spy)
        result = train(read_recipe(recipe, [f"{key}={value}" for key, value in chosen.items()]), progress=False)
    return result.adapter, seen[-1]


@pytest.mark.model
def test_adapter_of_gemma_gives_the_logits_again_that_it_had_in_memory(tmp_path: Path) -> None:
    adapter, in_memory = tuned(tmp_path, GEMMA.name)
    assert torch.equal(on_base(Path(locate_model(GEMMA.name).path), adapter), in_memory)


@pytest.mark.model
@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_merged_weights_get_the_adapters_scores(tmp_path: Path, quantization: str) -> None:
    adapter, _ = tuned(tmp_path, SMOLLM2.name, quantization=quantization, max_steps=8)
    merge(adapter, tmp_path / "merged", progress=False)
    spec = RunSpec(model=SMOLLM2.name, tasks=("uz_topic",), limit=8, prompt_format="alpaca", quantization=quantization)
    _, with_adapter = run(spec, adapters=[str(adapter)], out=tmp_path / "runs")
    (merged,) = run(replace(spec, model=str(tmp_path / "merged"), quantization="none"), out=tmp_path / "runs")
    for one, two in zip(with_adapter.samples, merged.samples, strict=True):
        assert one.response == two.response
        assert two.logprobs == pytest.approx(one.logprobs, abs=1e-3)
