"""Every kind of `--model`, several processes on one journal, and what is kept of a base model."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fault_server import FaultServer
from harness_data import measure, mmbench, the_run, write
from ports import free_port

from armor_eval.cli import main
from armor_eval.models import registry
from armor_eval.models.base import AnswersQuestions, Decoding, DrawsImages, Question, RespondsFreely
from armor_eval.models.drawing import row_seed
from armor_eval.models.mock import MockModel
from armor_eval.runs.bundle import read_bundle
from armor_model.base.errors import UserError


def run(bench, folder, out, model, **changes):
    return measure(bench, model, out, folder, **changes)


def answers(path):
    return {it.id: (it.output, it.score, it.status) for it in read_bundle(the_run(path))[1]}


def test_protocols(tiny_checkpoint):
    for model in (MockModel(), registry.load(str(tiny_checkpoint), "official")):
        assert isinstance(model, AnswersQuestions) and isinstance(model, DrawsImages)
        assert isinstance(model, RespondsFreely)


def test_mock_is_a_function_of_its_input():
    one, other = MockModel(), MockModel()
    questions = [Question("1", ["What?\nA. x\nB. y"]), Question("2", ["Is it?"])]
    assert one.answer(questions, Decoding()) == other.answer(questions[::-1], Decoding())[::-1]
    assert one.draw(["a"], [1], Decoding())[0].tobytes() == other.draw(["a"], [1], Decoding())[0].tobytes()
    assert one.info.fingerprint != MockModel("A").info.fingerprint


def test_armor_draws_and_responds(tiny_checkpoint):
    model = registry.load(str(tiny_checkpoint), "official")
    short = Decoding(max_new_tokens=4)
    alone = [model.draw([p], [s], short)[0] for p, s in (("a red circle", 3), ("a cross", 4))]
    both = model.draw(["a red circle", "a cross"], [3, 4], short)
    assert [p.tobytes() for p in alone] == [p.tobytes() for p in both]
    said = model.respond([[{"role": "user", "content": "what is it"}]], [1], short)
    assert len(said) == 1 and isinstance(said[0], list)
    mixed = model.draw(["", "a cross"], [1, 4], short)
    assert isinstance(mixed[0], Exception) and mixed[1].tobytes() == both[1].tobytes()
    assert row_seed("1", 0) == row_seed("1", 0) != row_seed("2", 0)
    model.close()


@pytest.mark.parametrize(
    ("spec", "needle"),
    [
        ("hf:", "lacks a model"),
        ("hf:/nowhere/at/all", "cannot load"),
        ("openai:http://x", "lacks the model's name"),
        ("openai:#m", "lacks"),
        ("vlmeval:", "lacks a model"),
        ("vlmeval:InternVL2_5-8", "did you mean InternVL2_5-8B"),
        ("no/such/folder", "not a folder"),
        ("mock:slowly", "mock:slowSECONDS"),
    ],
)
def test_specs_that_name_nothing(spec, needle, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError) as caught:
        registry.load(spec, "official")
    assert needle in caught.value.line()


def test_an_endpoint_answers_with_images(tsv_folder, tmp_path):
    with FaultServer() as server:
        model = registry.load(f"openai:{server.url}#good", "official")
        done = run("SEED", tsv_folder, tmp_path / "r", model)
        assert done.run.status == "complete" and server.asked == 12
        body = server.bodies[0]
        kinds = [p["type"] for p in body["messages"][0]["content"]]
        assert kinds == ["image_url", "text"] and body["temperature"] == 0.0 and body["max_tokens"] == 4096
        assert body["messages"][0]["content"][0]["image_url"]["url"].startswith("data:image/png;base64,")


def test_a_zoo_entry_runs_through_our_loop(tsv_folder, tmp_path):
    from armor_eval.vlmevalkit.importing import quiet_vlmeval

    with quiet_vlmeval():
        from vlmeval.config import supported_VLM
        from vlmeval.vlm.base import BaseModel

    class Stub(BaseModel):
        def generate_inner(self, message, dataset=None):
            assert message[0]["type"] == "image" and Path(message[0]["value"]).is_file()
            if "Which word fits 3?" in message[1]["value"]:
                raise RuntimeError("no")
            if "Which word fits 4?" in message[1]["value"]:
                return "Failed to obtain answer via API."
            return "B"

    supported_VLM["stub"] = Stub
    try:
        model = registry.load("vlmeval:stub", "official")
        done = run("SEED", tsv_folder, tmp_path / "r", model)
    finally:
        del supported_VLM["stub"]
    model.close()
    # VLMEvalKit would have counted the failure message as an answer.
    assert done.scores.counts["error"] == 2
    good = next(it for it in read_bundle(the_run(tmp_path / "r"))[1] if it.status == "ok")
    assert good.extras["vlmeval_prompt"].startswith("Question: Which word fits")
    assert done.run.prompt_sha256 != run("SEED", tsv_folder, tmp_path / "m", MockModel()).run.prompt_sha256


# accelerate's own `main`, after the shim that a CPU build of torch needs beside torchvision's CUDA build.
ACCELERATE = (
    "from armor_model.base.runtime import prepare_torchvision; prepare_torchvision()\n"
    "from accelerate.commands.launch import main; main()"
)
LAUNCHERS = {
    "torchrun": ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node"],
    "accelerate --multi_gpu": ["-c", ACCELERATE, "--multi_gpu", "--main_process_port", "0", "--num_processes"],
    "accelerate --cpu": ["-c", ACCELERATE, "--cpu", "--num_processes"],
}


def launch(launcher: str, processes: int, argv: list[str], **env: str) -> subprocess.CompletedProcess:
    words = [sys.executable, *LAUNCHERS[launcher], str(processes), "-m", "armor_eval", *argv]
    env = {**os.environ, "OMP_NUM_THREADS": "1", **env}
    return subprocess.run(words, env=env, capture_output=True, text=True, timeout=500)


def half_of(source: Path, target: Path) -> None:
    """The run `source` as it would lie there had it been killed after a third of its items."""
    source = the_run(source)
    target.mkdir()
    run_json = json.loads((source / "run.json").read_text()) | {"status": "running", "finished": None}
    (target / "run.json").write_text(json.dumps(run_json))
    lines = (source / "items.jsonl").read_text().splitlines(keepends=True)
    (target / "items.jsonl").write_text("".join(lines[::3]))


@pytest.mark.slow
def test_processes_share_one_journal_and_any_number_resumes(tmp_path):
    write(mmbench(8), tmp_path / "d" / "MMBench_DEV_EN.tsv")
    argv = ["understanding", "--bench", "MMB", "--model", "mock", "--data", str(tmp_path / "d"), "--any-data"]
    assert main([*argv, "--out", str(tmp_path / "one")]) == 0
    done = launch("torchrun", 2, [*argv, "--out", str(tmp_path / "two")])
    assert done.returncode == 0, done.stderr[-3000:]
    assert answers(tmp_path / "two") == answers(tmp_path / "one")
    assert read_bundle(the_run(tmp_path / "two"))[0].device.processes == 2
    # What two processes left half done is finished by one, and what one left by two.
    half_of(tmp_path / "two", tmp_path / "by-one")
    assert main([*argv, "--out", str(tmp_path / "by-one")]) == 0
    half_of(tmp_path / "one", tmp_path / "by-two")
    done = launch("accelerate --multi_gpu", 2, [*argv, "--out", str(tmp_path / "by-two")])
    assert done.returncode == 0, done.stderr[-3000:]
    assert read_bundle(the_run(tmp_path / "by-two"))[0].device.processes == 2
    for name in ("by-one", "by-two"):
        assert answers(tmp_path / name) == answers(tmp_path / "one")
        ids = [json.loads(line)["id"] for line in (the_run(tmp_path / name) / "items.jsonl").read_text().splitlines()]
        assert len(ids) == len(set(ids)) == 32


@pytest.mark.slow
def test_accelerates_cpu_switch_starts_one_process_and_is_told(tmp_path):
    write(mmbench(2), tmp_path / "d" / "MMBench_DEV_EN.tsv")
    argv = ["understanding", "--bench", "MMB", "--model", "mock", "--data", str(tmp_path / "d"), "--any-data"]
    done = launch("accelerate --cpu", 2, [*argv, "--out", str(tmp_path / "r")])
    assert done.returncode == 0, done.stderr[-3000:]
    assert read_bundle(the_run(tmp_path / "r"))[0].device.processes == 1
    assert "started one process: use torchrun" in " ".join(done.stderr.split())


@pytest.mark.slow
def test_processes_of_an_mpi_are_one_team(tmp_path):
    """As Open MPI's mpirun starts them: by the names of its variables alone (no MPI is installed here)."""
    write(mmbench(4), tmp_path / "d" / "MMBench_DEV_EN.tsv")
    words = ["understanding", "--bench", "MMB", "--model", "mock", "--data", str(tmp_path / "d"), "--any-data"]
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    team = []
    for rank in range(2):
        named = {"SIZE": 2, "RANK": rank, "LOCAL_SIZE": 2, "LOCAL_RANK": rank}
        env = {**os.environ, "OMP_NUM_THREADS": "1", **address}
        env |= {f"OMPI_COMM_WORLD_{name}": str(value) for name, value in named.items()}
        command = [sys.executable, "-m", "armor_eval", *words, "--out", str(tmp_path / "r")]
        team.append(subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True))
    said = [process.communicate(timeout=500)[1] for process in team]
    assert [process.returncode for process in team] == [0, 0], said
    run, items, _ = read_bundle(the_run(tmp_path / "r"))
    assert run.device.processes == 2 and len(items) == 16


def test_shards_of_a_run_are_asked_apart_and_join_to_the_whole(tsv_folder, tmp_path, capsys):
    words = ["understanding", "--bench", "MME,MME-P", "--model", "mock", "--data", str(tsv_folder), "--any-data"]
    for part in ("1", "2", "3"):
        assert main([*words, "--shard", f"{part}/3", "--out", str(tmp_path / part), "--batch-size", "3"]) == 0
        assert f"shard {part}/3" in capsys.readouterr().out
    assert main([*words, "--out", str(tmp_path / "whole")]) == 0
    for bench, rows in (("MME", 20), ("MME-P", 12)):
        parts = [str(tmp_path / part / bench) for part in ("1", "2", "3")]
        assert main(["merge", *parts, "--out", str(tmp_path / bench)]) == 0
        run, items, scores = read_bundle(the_run(tmp_path / bench / bench))
        assert len(items) == rows and answers(tmp_path / bench / bench) == answers(tmp_path / "whole" / bench)
        assert scores == read_bundle(the_run(tmp_path / "whole" / bench))[2] and run.command[-4:-2] == [
            "--bench",
            bench,
        ]
    assert main([*words, "--shard", "1/3", "--baselines", "--out", str(tmp_path / "no")]) == 2


def test_one_inference_serves_mme_and_mme_p(tsv_folder, tmp_path, capsys):
    argv = ["understanding", "--bench", "MME-P,MME", "--model", "mock", "--data", str(tsv_folder), "--any-data"]
    assert main([*argv, "--out", str(tmp_path)]) == 0
    capsys.readouterr()
    both, perception = (read_bundle(the_run(tmp_path / name)) for name in ("MME", "MME-P"))
    assert len(both[1]) == 20 and len(perception[1]) == 12
    seconds = {it.id: it.seconds for it in both[1]}
    assert all(seconds[it.id] == it.seconds for it in perception[1]), "the answers were asked for again"
    by_name = {m.name: m.value for m in both[2].metrics}
    assert by_name["perception"] == next(m.value for m in perception[2].metrics if m.primary)


def test_baselines_stand_beside(tmp_path, capsys):
    write(mmbench(6), tmp_path / "d" / "MMBench_DEV_EN.tsv")
    argv = ["understanding", "--bench", "MMB", "--model", "mock", "--data", str(tmp_path / "d"), "--any-data"]
    assert main([*argv, "--baselines", "--out", str(tmp_path / "r")]) == 0
    shown = capsys.readouterr().out
    assert "blind" in shown and "const." in shown
    blind = next(tmp_path.glob("r/MMB-blind"))
    assert all("<image>" not in it.prompt and not it.images for it in read_bundle(blind)[1])
    assert read_bundle(blind)[0].prompt_sha256 != read_bundle(the_run(tmp_path / "r" / "MMB"))[0].prompt_sha256


def test_retention(tmp_path, tsv_folder, capsys):
    from armor_eval.compare.retention import retention

    base, now = tmp_path / "base", tmp_path / "now"
    for bench in ("SEED", "POPE"):
        run(bench, tsv_folder, base / bench, MockModel())
        run(bench, tsv_folder, now / bench, MockModel("B" if bench == "SEED" else "Yes"))
    rows, mean = retention(base, [now / "SEED", now / "POPE"])
    for row in rows:
        assert row.kept == pytest.approx(100 * row.score / row.base)
    assert mean.kept == pytest.approx(sum(r.kept for r in rows) / 2)
    same, exactly = retention(base, [base / "SEED", base / "POPE"])
    assert exactly.kept == 100.0 and exactly.ci95 in (None, (100.0, 100.0)) and same[0].kept == 100.0
    run("SEED", tsv_folder, tmp_path / "part", MockModel(), limit=2)
    with pytest.raises(UserError, match="differ in"):
        retention(base, [tmp_path / "part"])
    with pytest.raises(UserError, match="no such run"):
        retention(tmp_path / "d", [now / "SEED"])
    with pytest.raises(UserError, match="holds no run of POPE"):
        retention(base / "SEED", [now / "POPE"])
    argv = ["understanding", "--bench", "SEED", "--model", "mock:B", "--data", str(tsv_folder), "--any-data"]
    assert main([*argv, "--out", str(tmp_path / "cli"), "--retention", str(base)]) == 0
    assert "kept" in capsys.readouterr().out
    run("SEED", tsv_folder, base / "SEED-constant", MockModel("B"))  # a control of the base is not the base
    assert main([*argv, "--out", str(tmp_path / "cli"), "--retention", str(base), "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert len(made["runs"]) == 1 and made["retention"][0]["kept"] == rows[0].kept
    assert main([*argv, "--out", str(tmp_path / "never"), "--retention", str(tmp_path / "no")]) == 2
    assert "no such run" in capsys.readouterr().err and not (tmp_path / "never").exists()
