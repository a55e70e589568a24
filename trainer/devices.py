"""One process or many: accelerate's process group, DDP, or FSDP2 shards; and tensors whole again for a checkpoint.

    torchrun --nproc-per-node 8 -m trainer stage ...                          DDP, on GPUs or (gloo) on CPUs
    accelerate-launch --multi_gpu --num_processes 8 -m trainer stage ...      the same
    accelerate-launch --use_fsdp --num_processes 8 -m trainer stage ...       FSDP2, as does --shard

FSDP is torch's own `fully_shard`, not accelerate's wrapper: that one leaves sharding out on a CPU without a word
(accelerate 1.15, AcceleratorState lists no MULTI_CPU), where two gloo processes can prove it, and wants one optimizer
handed in, where there may be Muon and AdamW.
"""

from __future__ import annotations

import copy
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import GradientAccumulationPlugin, broadcast_object_list, gather_object
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from armor_model.base.errors import RunFailed, UserError
from armor_model.base.jsons import JsonObject
from armor_model.base.parsing import read_table
from armor_model.convert.shards import Source


def asked_to_shard() -> bool:
    """Whether `accelerate launch --use_fsdp` started this process."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def asked_precision() -> Literal["bf16"] | None:
    """What `accelerate launch --mixed_precision` says, None where it says nothing. Raises UserError for fp16 and
    fp8."""
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    if precision not in ("no", "bf16"):
        raise UserError(f"accelerate's mixed precision {precision!r} is not supported here; bf16 is")
    return "bf16" if precision == "bf16" else None


T = TypeVar("T")

SWITCHES = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism configuration",
}
"""Of accelerate's launcher, that would put another engine in the place of this one."""


def check_environment(accumulate: int) -> None:
    """Raises UserError for what accelerate's launcher or its configuration file asks for and this loop does not do."""
    for name, what in SWITCHES.items():
        if os.environ.get(name, "false").lower() in ("true", "1", "yes"):
            raise UserError(
                f"accelerate was told to use {what}", "use its MULTI_GPU or FSDP, or --shard, which is FSDP2"
            )
    steps = os.environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1")
    if steps not in ("1", str(accumulate)):
        hint = f"give --accumulate {steps}, or take it out of accelerate's configuration"
        raise UserError(f"accelerate was told gradient_accumulation_steps {steps}, here it is {accumulate}", hint)


def start(accumulate: int = 1) -> Accelerator:
    """The process group. Precision, sharding and micro-batches are the loop's own: in accelerate the first two are
    fixed for the life of a process, and the last would divide every gradient once more. Raises UserError."""
    check_environment(accumulate)
    before = os.environ.pop("ACCELERATE_USE_FSDP", None)
    try:
        plugin = GradientAccumulationPlugin(num_steps=1)  # else the environment's
        cpu = not torch.cuda.is_available()
        return Accelerator(mixed_precision="no", cpu=cpu, gradient_accumulation_plugin=plugin)
    finally:
        if before is not None:
            os.environ["ACCELERATE_USE_FSDP"] = before


def agree(accelerator: Accelerator, facts: Mapping[str, str], why: str) -> None:
    """Return where every process knows the same facts. Raises RunFailed, in all of them, that names the first that does
    not, and `why` that matters."""
    if accelerator.num_processes < 2:
        return
    every = gather_object([dict(facts)])
    for rank, theirs in enumerate(every):
        for name, value in every[0].items():
            if theirs.get(name) != value:
                raise RunFailed(f"process {rank} has {name} {theirs.get(name)}, process 0 has {value}: {why}")


def choose(accelerator: Accelerator, value: T) -> T:
    """Process 0's value, in all of them."""
    return broadcast_object_list([value])[0] if accelerator.num_processes > 1 else value


def check_shared(accelerator: Accelerator, folder: Path) -> None:
    """Raises UserError, in every process, where one does not see what process 0 writes into a folder: a resume would
    find other checkpoints there."""
    if accelerator.num_processes < 2:
        return
    probe = None
    if accelerator.is_main_process:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / f".shared-{secrets.token_hex(8)}"
            probe.touch()
        except OSError:
            probe = None
    name = choose(accelerator, probe and probe.name)
    seen = gather_object([name is not None and (folder / name).exists()])
    if probe is not None:
        probe.unlink(missing_ok=True)
    if not all(seen):
        blind = ", ".join(str(rank) for rank, sees in enumerate(seen) if not sees)
        raise UserError(
            f"--out {folder} is not one folder for all processes: process {blind} cannot see what process 0 writes",
            "give a folder that every machine mounts",
        )


def shards_of(processes: int, replicas: int) -> int:
    """What each copy of a model is split into. Raises UserError."""
    if processes < 2:
        raise UserError("there is nothing to shard with one process; start more, or leave FSDP out")
    shards, rest = divmod(processes, replicas)
    if rest or shards < 2:
        raise UserError(f"{processes} processes do not make {replicas} copies of two shards or more each")
    return shards


def shard(objective: nn.Module, accelerator: Accelerator, precision: str, replicas: int = 1) -> nn.Module:
    """Shard an Objective in place: every block of ViT, decoder and adapter for itself, the rest together. With bf16,
    blocks are gathered in bf16 and gradients are summed in fp32.

    replicas: copies of the sharded model (HSDP); ranks that follow each other, a machine's, share one. Raises
    UserError.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    shards = shards_of(accelerator.num_processes, replicas)
    shape, names = ((shards,), ("shard",)) if replicas == 1 else ((replicas, shards), ("copy", "shard"))
    half = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    how: JsonObject = {
        "mesh": init_device_mesh(accelerator.device.type, shape, mesh_dim_names=names),
        "mp_policy": half if precision == "bf16" else MixedPrecisionPolicy(),
    }
    for block in objective.model.blocks:
        fully_shard(block, **how)
    return fully_shard(objective, **how)


def empty_model(start: Path, attention: str | None = None) -> nn.Module:
    """A checkpoint's model without weights, which `fill` reads once it is sharded: no process ever holds all of them.
    Raises UserError."""
    from accelerate import init_empty_weights

    from armor_model.bases import base_name_of
    from armor_model.config import config_class
    from armor_model.modeling import model_class

    base = base_name_of(read_table(start / "config.json")) or ""
    config = config_class(base).from_pretrained(start)
    with init_empty_weights(include_buffers=False):
        model = model_class(base)._from_config(config, **({"attn_implementation": attention} if attention else {}))
    source = Source(start)
    for name, parameter in model.named_parameters():
        stored = source.tensors.get(name)
        if stored is None or stored.shape != tuple(parameter.shape):
            raise UserError(
                f"the checkpoint in {start} does not fit: {name} is {stored and stored.shape}, "
                f"{tuple(parameter.shape)} is wanted"
            )
        half = stored.dtype == torch.float16  # saves the file's space only, as in armor_model.load
        parameter.data = parameter.data.to(torch.float32 if half else stored.dtype)
    return model


def fill(model: nn.Module, source: Source) -> None:
    """Read a sharded model's weights one tensor at a time; each process keeps its part."""
    state = {}
    for name, parameter in model.named_parameters():
        value = placed_like(source.read(name).to(parameter.dtype), parameter)
        state[name] = nn.Parameter(value, requires_grad=parameter.requires_grad)
    model.load_state_dict(state, strict=False, assign=True)  # buffers have their values


def whole(tensor: Tensor) -> Tensor:
    """A tensor in full, detached. Where it is sharded, every process has to call this."""
    return tensor.detach().full_tensor() if isinstance(tensor, DTensor) else tensor.detach()


def placed_like(value: Tensor, like: Tensor) -> Tensor:
    """This process's part of a full tensor that every process holds, sharded as `like` is; the tensor itself where
    `like` is whole."""
    if not isinstance(like, DTensor):
        return value
    value = value.to(like.device_mesh.device_type, like.dtype)
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)


def whole_model(
    model: nn.Module, keep: bool, dtype: torch.dtype | None = None, device: str | None = None
) -> nn.Module | None:
    """The model itself; of a sharded one a copy in full where `keep`, on `device` or its own, None elsewhere. Every
    process has to call this: parameters are gathered one at a time."""
    if not any(isinstance(p, DTensor) for p in model.parameters()):
        return model
    from accelerate import init_empty_weights

    where = torch.device(device) if device else next(model.parameters()).device
    state = {}
    for name, value in model.state_dict().items():
        value = whole(value)
        if keep:
            kind = dtype if dtype is not None and value.is_floating_point() else value.dtype
            state[name] = value.to(where, kind, copy=True)
    if not keep:
        return None
    with init_empty_weights(include_buffers=False):
        made = type(model)(model.config)
    made.load_state_dict(state, assign=True)
    return made.to(where).eval()


def in_one_type(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A model whose weights are all of `dtype`: itself, or a copy that shares those which are. Mixed types, as masters
    beside a frozen bf16 decoder, want autocast, which generation does not use.

    A copy, since DDP no longer sums the gradient of a parameter whose own type was changed meanwhile.
    """
    if all(p.dtype == dtype for p in model.parameters()):
        return model
    memo = {id(p): nn.Parameter(p.detach().to(dtype), requires_grad=False) for p in model.parameters()}
    return copy.deepcopy(model, memo)


def random_states(accelerator: Accelerator) -> list[dict[str, Tensor]]:
    """Every process's generators, by rank."""
    here = {"torch": torch.get_rng_state()}
    if accelerator.device.type == "cuda":
        here["cuda"] = torch.cuda.get_rng_state(accelerator.device)
    return gather_object([here]) if accelerator.num_processes > 1 else [here]


def restore_random_state(accelerator: Accelerator, states: list[dict[str, Tensor]]) -> None:
    """Set this process's generators; with another number of processes than was saved, rank 0's."""
    rank = accelerator.process_index
    here = states[rank if len(states) == accelerator.num_processes else 0]
    torch.set_rng_state(here["torch"])
    if "cuda" in here and accelerator.device.type == "cuda":
        torch.cuda.set_rng_state(here["cuda"], accelerator.device)
