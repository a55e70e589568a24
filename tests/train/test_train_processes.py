"""Two processes (gloo) are one with the double batch, copied (DDP) or sharded (FSDP2), and killed and resumed they are
the uninterrupted run; micro-batches are one batch."""

from __future__ import annotations

import faulthandler
import json
import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from train_helpers import assert_equal_trees

from armor_model.bases import BASES

STEPS = 6


def train(
    out: str, rank: int = 0, world: int = 1, port: int = 0, shard: bool = False, hold: int | None = None, **changes
) -> None:
    """One process of a run of stage 3; the mixture holds every type, so a process may lack pictures to draw.

    Behind step `hold` it waits for `go_on(out)`, half an hour or until its starter ends: who sends a signal finds it
    alive."""
    faulthandler.enable()  # a crash in C says where it came from
    torch.set_num_threads(1)
    if world > 1:
        os.environ.update(
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE=str(world),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
            TORCHELASTIC_USE_AGENT_STORE="True",
            TORCHELASTIC_RESTART_COUNT="0",
            ACCELERATE_USE_CPU="true",
        )
    from train_helpers import pools, tiny_model

    from trainer.config import LoopOptions, Optimization
    from trainer.loader import Mixture
    from trainer.loop import Loop
    from trainer.stages import STAGES

    asked = []

    class Slow(Mixture):
        def chosen(self, step):  # what the data loader asks of a mixture, in its thread
            asked.append(step)
            starter, end = multiprocessing.parent_process(), time.monotonic() + 1800
            while hold is not None and step > hold and not go_on(Path(out)).exists():
                if not starter.is_alive() or time.monotonic() > end:
                    break
                time.sleep(0.005)
            return super().chosen(step)

    base = changes.pop("base", "internvl")
    model, source = tiny_model(base=base), None
    if folder := changes.pop("checkpoint", None):
        from armor_model.convert.shards import Source
        from trainer.devices import empty_model

        model, source = empty_model(folder), Source(folder)
        assert {p.device.type for p in model.parameters()} == {"meta"}
    stage = changes.pop("stage", "3")
    counts = changes.pop("counts", {"t2t": 12, "ti2t": 12, "t2i": 12, "t2ti": 12})
    batch_size = changes.pop("batch_size", 8)
    mixture = Slow(pools(model.config), counts, batch_size, seed=5)
    of_optimizer = ("accumulate", "muon_lr", "gradient_checkpointing", "precision")
    how = {name: changes.pop(name) for name in of_optimizer if name in changes}
    samples = changes.pop("samples", False)
    options = LoopOptions(
        Path(out),
        log_every=1,
        bar=False,
        shard=shard,
        sample=weighed if samples else None,
        sample_every=3 if samples else 0,
        **changes,
    )
    how = Optimization(STEPS, batch_size, lr=1e-3, clip=1.0, **how)
    Loop(model, STAGES[stage], mixture, how, options, source).run()
    assert asked, "the data loader asks otherwise by now: nothing waits for its killer"


def go_on(out: Path) -> Path:
    return out.with_suffix(".go")


def train_told(out: str, rank: int, world: int, port: int, wrong: str = "", **options) -> None:
    """`train`, whose one-line end is kept as a file; `wrong` is what process 1 has otherwise."""
    import train_helpers

    from armor_model.base.errors import ArmorError
    from trainer.checkpoints import Checkpoints

    report = Path(out).with_suffix(f".end-{rank}")
    if rank == 1 and wrong == "folder":
        out += "-elsewhere"
    if rank == 1 and wrong == "checkpoint":
        Checkpoints.digest = lambda self, step: "other"
    if rank == 1 and wrong == "weights":
        made = train_helpers.tiny_model
        train_helpers.tiny_model = lambda **how: made(seed=7, **how)
    try:
        train(out, rank, world, port, **options)
        report.write_text("done")
    except ArmorError as error:
        report.write_text(f"{error.exit_code} {error.line()}")


def weighed(model, step):
    """A picture whose size is a number of the whole model: it can only be made where every weight is at hand."""
    total = sum(float(p.detach().double().abs().sum()) for p in model.parameters())
    hidden = model.backbone(model.embed(torch.tensor([[1, 9, 10, model.config.imgbos_id]])))
    assert torch.isfinite(model.visual_logits(model.visual_hidden(hidden))).all()
    return {"weights": Image.new("L", (round(total), 1))}


def result(out: Path) -> tuple[list[dict], dict]:
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return log, load_file(out / "checkpoints" / f"step-{STEPS:08d}" / "trained.safetensors")


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    out = tmp_path_factory.mktemp("one")
    train(str(out), samples=True)
    return out


@pytest.fixture(scope="module")
def start(forkserver):
    """Starts two processes of one run; gives them back.

    They meet at a store of this process, as torchrun's do: a free port that is looked for here and bound by process 0
    later is another test's by then, once in a while."""
    stores = []

    def begin(out: Path, target=train, world: int = 2, **options):
        stores.append(torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False))
        pair = [
            forkserver.Process(
                target=target, args=(str(out), rank, world, stores[-1].port), kwargs=options, daemon=True
            )
            for rank in range(world)
        ]
        for process in pair:
            process.start()
        return pair

    return begin


def finish(pair) -> None:
    for process in pair:
        process.join(900)
    assert [p.exitcode for p in pair] == [0] * len(pair)


def assert_same(found, expected) -> None:
    for ours, theirs in zip(found[0], expected[0], strict=True):
        names = {n for n in theirs if n.startswith("loss/")} | {"gradient_norm"}
        # Sums in another order differ in the last bits, which Adam then carries on: tight at first, looser later.
        close = 1e-5 if ours["step"] == 1 else 2e-3
        assert {n: ours[n] for n in names} == pytest.approx({n: theirs[n] for n in names}, rel=close), ours["step"]
    for name, value in expected[1].items():
        # Adam divides by the gradient's size, so a parameter whose gradient is nearly zero moves by rounding.
        assert torch.allclose(found[1][name], value, atol=3e-4), name


@pytest.mark.parametrize("accumulate", [2, 4])
def test_micro_batches_are_one_batch(one, tmp_path, accumulate):
    train(str(tmp_path), accumulate=accumulate)
    assert_same(result(tmp_path), result(one))


def test_packed_rows_are_one_batch(one, tmp_path):
    train(str(tmp_path), pack_to=96)
    assert_same(result(tmp_path), result(one))


@pytest.mark.parametrize("shard", [False, True], ids=["ddp", "fsdp"])
def test_two_processes_are_one_with_the_double_batch(one, start, tmp_path, shard):
    finish(start(tmp_path, shard=shard, samples=True, accumulate=2 if shard else 1))
    assert_same(result(tmp_path), result(one))
    state = json.loads((tmp_path / "checkpoints" / f"step-{STEPS:08d}" / "state.json").read_text())
    assert (state["processes"], state["sharded"]) == (2, shard)
    drawn = [sorted(p.name for p in (d / "samples").iterdir()) for d in (tmp_path, one)]
    assert drawn[0] == drawn[1] == [f"step-{n:08d}-weights.png" for n in (3, 6)]
    for name in drawn[0]:  # about 1 of thousands is rounding; a part left out is hundreds
        ours, theirs = (Image.open(d / "samples" / name).width for d in (tmp_path, one))
        assert theirs > 1000 and abs(ours - theirs) <= 2, (ours, theirs)


def wait_for_log(pair, out: Path, after: int) -> None:
    """Return once `after` lines are logged."""
    end = time.monotonic() + 900
    while time.monotonic() < end:
        path = out / "log.jsonl"
        if path.exists() and path.read_text().count("\n") >= after:
            break
        assert all(p.is_alive() for p in pair)
        time.sleep(0.005)


def kill_pair(pair, out: Path, after: int) -> None:
    """Kill -9 both once `after` lines are logged; stopped first, or one sees the other die and ends by itself."""
    wait_for_log(pair, out, after)
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for process in pair:
            os.kill(process.pid, number)
    for process in pair:
        process.join(600)
    assert [p.exitcode for p in pair] == [-signal.SIGKILL] * 2


@pytest.mark.parametrize("shard", [False, True], ids=["ddp", "fsdp"])
def test_two_processes_killed_and_resumed_are_the_uninterrupted_run(start, tmp_path, shard):
    """Bit for bit, with AdamW and Muon; the mixture often has no picture to draw, so a head's state is born late."""
    options = {
        "shard": shard,
        "save_every": 1,
        "muon_lr": 1e-3,
        "batch_size": 2,
        "counts": {"t2t": 10, "ti2t": 10, "t2i": 2, "t2ti": 2},
    }
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    finish(start(straight, **options))
    kill_pair(start(broken, hold=3, **options), broken, 3)
    assert result_steps(broken) < STEPS
    finish(start(broken, resume=True, **options))
    ours, theirs = result(broken), result(straight)
    assert [r["step"] for r in ours[0]] == list(range(1, STEPS + 1))
    for name, value in theirs[1].items():
        assert torch.equal(ours[1][name], value), name
    states = [
        torch.load(d / "checkpoints" / f"step-{STEPS:08d}" / "optimizer.pt", weights_only=True)
        for d in (broken, straight)
    ]
    assert_equal_trees(*(s["optimizers"] for s in states))


def test_a_model_read_shard_by_shard_is_the_model(one, start, tmp_path):
    """No process ever holds all weights: `--shard` trains what does not fit one device."""
    from train_helpers import tiny_model

    tiny_model().save_pretrained(tmp_path / "model")
    finish(start(tmp_path / "run", shard=True, checkpoint=tmp_path / "model"))
    assert_same(result(tmp_path / "run"), result(one))


def result_steps(out: Path) -> int:
    return max(int(p.name.removeprefix("step-")) for p in (out / "checkpoints").glob("step-*"))


def test_a_sharded_checkpoint_goes_on_in_one_process(one, start, tmp_path):
    pair = start(tmp_path, shard=True, save_every=1, hold=3)
    kill_pair(pair, tmp_path, 3)
    train(str(tmp_path), resume=True)
    assert_same(result(tmp_path), result(one))


OTHERS = [name for name in BASES if name != "internvl"]


@pytest.mark.parametrize(
    ("base", "shard"),
    [("internvl", False), ("internvl", True), *(pytest.param(base, True, marks=pytest.mark.slow) for base in OTHERS)],
)
def test_the_base_is_trained_where_one_process_sees_no_image(start, tmp_path, base, shard):
    """The vision tower is trained in this stage and has to take part in every backward pass of every process."""
    options = {"stage": "base", "counts": {"t2t": 11, "ti2t": 1}, "batch_size": 2, "base": base}
    train(str(tmp_path / "one"), **options)
    finish(start(tmp_path / "two", shard=shard, **options))
    assert_same(result(tmp_path / "two"), result(tmp_path / "one"))


def test_one_process_has_nothing_to_shard(tmp_path):
    from armor_model.base.errors import UserError

    with pytest.raises(UserError, match="nothing to shard with one process"):
        train(str(tmp_path), shard=True)


def test_shards_in_bf16_with_recomputation_are_one_process_in_bf16(start, tmp_path):
    """Blocks are gathered in bf16, run again in the backward pass, and trained on fp32 masters."""
    options = {"precision": "bf16", "gradient_checkpointing": True}
    train(str(tmp_path / "one"), **options)
    finish(start(tmp_path / "two", shard=True, **options))
    ours, theirs = result(tmp_path / "two"), result(tmp_path / "one")
    assert {v.dtype for v in ours[1].values()} == {torch.float32}
    for mine, other in zip(ours[0], theirs[0], strict=True):
        names = [n for n in other if n in ("loss/text", "loss/image")]
        assert {n: mine[n] for n in names} == pytest.approx({n: other[n] for n in names}, rel=2e-2), mine["step"]


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("folder", "is not one folder for all processes: process 1 cannot see what process 0 writes"),
        ("weights", "process 1 has weights "),
        ("checkpoint", "process 1 has step-00000003 other, process 0 has "),
    ],
)
def test_processes_that_would_train_a_mixture_stop_in_one_line(start, tmp_path, wrong, told):
    """LlamaFactory 655, transformers 28270: each machine resumed from what it saw, and process 0 reported success."""
    out = tmp_path / "run"
    if wrong == "checkpoint":
        finish(start(out, save_every=3))
        shutil.rmtree(out / "checkpoints" / f"step-{STEPS:08d}")
    finish(start(out, target=train_told, wrong=wrong, resume=True))
    ends = [out.with_suffix(f".end-{rank}").read_text() for rank in range(2)]
    assert all(told in end for end in ends), ends
    assert not (tmp_path / "run-elsewhere").exists()


def test_a_signal_to_one_of_two_processes_ends_both_with_a_checkpoint(start, one, tmp_path):
    out = tmp_path / "run"
    pair = start(out, target=train_told, hold=2)
    wait_for_log(pair, out, 2)
    os.kill(pair[1].pid, signal.SIGUSR1)
    go_on(out).touch()
    finish(pair)
    ends = [out.with_suffix(f".end-{rank}").read_text() for rank in range(2)]
    assert all(end.startswith("75 stopped by a signal behind step ") for end in ends)
    assert 2 <= result_steps(out) < STEPS
    train(str(out), resume=True, accumulate=2)
    assert_same(result(out), result(one))


@pytest.mark.slow
def test_two_processes_go_on_as_four(start, one, tmp_path):
    pair = start(tmp_path, save_every=1, hold=2)
    kill_pair(pair, tmp_path, 2)
    finish(start(tmp_path, world=4, resume=True))
    assert_same(result(tmp_path), result(one))


@pytest.mark.slow
def test_copies_of_shards_are_one_process(start, one, tmp_path):
    """HSDP: two copies of a model in two shards each."""
    finish(start(tmp_path, world=4, shard=True, replicas=2))
    assert_same(result(tmp_path), result(one))
