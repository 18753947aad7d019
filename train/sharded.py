"""A frozen base in shards, for one that doesn't fit a GPU: torch's fully_shard (FSDP2) over it, quantized or not.

Each process keeps its share of every weight; a decoder layer is gathered when a pass comes to it and let go behind it
(Zhao et al. 2023, arXiv 2304.11277). Adapters stay whole: the team adds up their gradients as ever, and optimizer,
checkpoints and what is saved are those of one process.

Accelerate starts the processes, but its `prepare` wants model and optimizer at once and leaves NF4 weights that lie in
bytes unsharded (1.15, fsdp_utils.py), though bitsandbytes takes their scales from the layer, which keeps them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.functional import cross_entropy

from harness.engine.lm import SERVED
from harness.errors import ModelError, UsageError
from train.memory import WORTHWHILE_TOKENS
from train.packing import Packed
from train.plain import PlainLearner, RowAttention
from train.planning import Plan
from train.recipe import Recipe

WHOLE = "Try it with --config_file train/accelerate/ddp.yaml"


def check_shardable(recipe: Recipe, config: Any) -> None:
    """Raises ModelError, UsageError where a recipe can't be trained on a base, given by its config, in shards."""
    if recipe.quantization in ("int8", "fp8"):
        raise UsageError(f"quantization: {recipe.quantization} can't be sharded. Try: quantization=nf4")
    if recipe.eval_steps:
        raise UsageError(f"eval_steps: a base in shards can't be asked on the way. Leave it out. {WHOLE}")
    if config.model_type not in SERVED:
        raise ModelError(f"Sharding isn't written for the architecture {config.model_type}. {WHOLE}")


def sharded_plan(recipe: Recipe, config: Any) -> Plan:
    """Passes of a base in shards: just long enough for a GPU, and every layer's activations computed twice."""
    recompute = recipe.recompute_layers if recipe.recompute_layers >= 0 else config.num_hidden_layers
    return Plan(recipe.micro_batch_tokens or WORTHWHILE_TOKENS, recompute)


def shard(model: Any) -> None:
    """Leaves this process its share of the base of a PEFT model in the CPU's memory, on the process's device."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    mesh = init_device_mesh(device, (torch.distributed.get_world_size(),))
    adapters = {parameter for parameter in model.parameters() if parameter.requires_grad}
    for parameter in adapters:
        parameter.data = parameter.data.to(device)
    causal = model.get_base_model()
    # Whole layers come to the device one by one; embeddings and head, which may be one weight, are gathered together.
    for module in (*causal.base_model.layers, causal):
        fully_shard(module, mesh=mesh, ignored_params=adapters)


class ShardedLearner(PlainLearner):
    """A PEFT model whose base is in shards, gathered when the causal model itself is called.

    All processes must learn from as many passes.
    """

    def loss(self, packed: Packed, *, seed: int) -> torch.Tensor:
        """The loss of a pass, summed over its trained tokens, with its gradient; float32 ().

        seed: of this pass's dropout.
        """
        torch.manual_seed(seed)
        ids, positions, predictors, targets = (
            torch.from_numpy(each).to(self._device)
            for each in (packed.ids, packed.positions, packed.predictors, packed.targets)
        )
        logits = self._causal(
            input_ids=ids[None],
            position_ids=positions[None],
            use_cache=False,
            attend=RowAttention(packed.lengths),
            logits_to_keep=predictors,
        ).logits[0]  # (N, V)
        return cross_entropy(logits.float(), targets, reduction="sum")
