"""The engine on a task of its own: who is asked what, what a failure costs, and that a resumed run is the same run."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from armor_eval.engine import Conversation, Described, Outcome, Prompt, Ready, Settings, Unit, evaluate
from armor_eval.engine.batches import batches_of, in_asking_order
from armor_eval.models.base import Answer, Decoding, ModelUnavailable, Question
from armor_eval.models.drawing import NotDrawnError
from armor_eval.runs.bundle import read_bundle
from armor_eval.runs.schema import DataInfo, Item, Metric, ModelInfo, ScorerInfo, Scores
from armor_model.base.errors import RunFailed, UserError

UNITS = st.lists(
    st.builds(
        Unit,
        id=st.uuids().map(str),
        cluster=st.just("c"),
        length=st.integers(0, 3),
        shared=st.one_of(st.none(), st.integers(0, 3)),
    ),
    unique_by=lambda unit: unit.id,
    max_size=40,
)


@given(UNITS, st.integers(1, 7), st.integers(1, 4), st.data())
def test_every_open_unit_belongs_to_exactly_one_process_and_batch(units, size, world, data) -> None:
    done = {u.id for u in units if data.draw(st.booleans())}
    asked = Counter(
        unit.id
        for rank in range(world)
        for batch in batches_of(units, done, size, rank, world, whole=False)
        for unit in batch
    )
    assert asked == Counter(u.id for u in units if u.id not in done)
    for shards in (1, 3):
        held = [
            [
                {
                    u.id
                    for rank in range(w)
                    for b in batches_of(units, (), size, rank, w, shard=(i, shards), whole=True)
                    for u in b
                }
                for i in range(shards)
            ]
            for w in (1, world)
        ]
        assert held[0] == held[1], "what a shard holds does not hang on its processes"
        assert sum(map(len, held[0])) == len(units)
    whole = [b for rank in range(world) for b in batches_of(units, done, size, rank, world, whole=True)]
    assert {u.id for b in whole for u in b} >= {u.id for u in units if u.id not in done}
    assert all(len(b) <= size for b in whole)


@given(UNITS)
def test_units_of_one_image_are_asked_side_by_side(units) -> None:
    shared = [u.shared for u in in_asking_order(units) if u.shared is not None]
    blocks = [s for at, s in enumerate(shared) if at == 0 or shared[at - 1] != s]
    assert len(blocks) == len(set(shared))


class Echo:
    """Answers with the question's own text; fails on a batch that holds `bad`, as a batch out of memory would."""

    info = ModelInfo(spec="echo", name="echo", fingerprint="f")

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def answer(self, questions, decoding):
        self.asked.append([q.id for q in questions])
        if any("bad" in q.id for q in questions):
            raise RuntimeError("out of memory")
        return [Answer(text=q.parts[0]) for q in questions]

    def close(self) -> None:
        pass


class EchoTask:
    def __init__(self, ids: list[str], *, whole_batches: bool = False, ready: str | None = None) -> None:
        self.ids, self.whole_batches, self.ready = ids, whole_batches, ready

    def check(self, model) -> None:
        if not hasattr(model, "answer"):
            raise UserError("cannot answer")

    def describe(self, model) -> Described:
        data = DataInfo(name="echo", sha256="0" * 64, items=len(self.ids))
        return Described("understanding", "echo", data, None, "0" * 64, ScorerInfo(name="echo", version="1"))

    def units(self):
        return [Unit(i, cluster=i) for i in self.ids]

    def requests(self, units, folder):
        return [
            ValueError("unreadable")
            if "torn" in u.id
            else Ready(Answer(text="ready"))
            if u.id == self.ready
            else Question(u.id, [u.id])
            for u in units
        ]

    def judge(self, units, requests, outputs, bundle):
        common = {"prompt": "p", "prompt_sha256": "h"}
        return [
            Item(id=u.id, cluster=u.cluster, status="error", reason=str(o), **common)
            if isinstance(o, Exception)
            else Item(id=u.id, cluster=u.cluster, output=o.text, score=1.0, status="ok", **common)
            for u, o in zip(units, outputs, strict=True)
        ]

    def finish(self, bundle, progress):
        items = list(bundle.items.values())
        value = 100.0 * sum(i.score or 0 for i in items) / len(self.ids)
        metric = Metric(name="echoed", value=value, unit="%", n=len(items), clusters=len(items), primary=True)
        scores = Scores(metrics=[metric], counts=Counter(i.status for i in items), expected_items=len(self.ids))
        lost = sum(i.status == "error" for i in items)
        return Outcome(items, scores, f"{lost} lost" if lost else None, {"extras": {"seen": len(items)}})


def settings(batch_size: int = 4) -> Settings:
    return Settings("official", ["test"], batch_size=batch_size)


def test_a_run_is_complete_when_every_unit_is_scored_and_is_only_read_afterwards(tmp_path: Path) -> None:
    ticks: list[tuple[int, int]] = []
    model = Echo()
    done = evaluate(
        EchoTask(["a", "b", "c", "d", "e"]),
        model,
        tmp_path / "r",
        settings(),
        progress=lambda total, already: lambda n, failed: ticks.append((n, failed)),
    )
    assert done.run.status == "complete" and done.scores.metrics[0].value == 100.0
    assert done.run.extras == {"seen": 5} and ticks == [(4, 0), (1, 0)]
    again = evaluate(EchoTask(["a", "b", "c", "d", "e"]), model, tmp_path / "r", settings())
    assert again.scores == done.scores and len(model.asked) == 2


def test_what_a_checkpoint_sets_of_drawing_is_used_and_recorded_unless_it_is_said(tmp_path: Path) -> None:
    class Own(Echo):
        image_defaults = {"image_temperature": 0.5, "image_top_k": 9}  # noqa: RUF012

        def settings(self, decoding):
            return {}

    class Drawn(EchoTask):
        def describe(self, model):
            return replace(super().describe(model), kind="suite")

    evaluate(Drawn(["a"]), Own(), tmp_path / "own", settings())
    said = replace(settings(), decoding=Decoding(image_temperature=1.0))
    evaluate(Drawn(["a"]), Own(), tmp_path / "said", said)
    evaluate(EchoTask(["a"]), Own(), tmp_path / "questions", settings())
    used = [read_bundle(tmp_path / name)[0].decoding for name in ("own", "said", "questions")]
    assert [(one["image_temperature"], one["image_top_k"]) for one in used] == [(0.5, 9), (1.0, 9), (1.0, 0)]


def test_a_failing_unit_costs_itself_alone_and_makes_the_run_partial(tmp_path: Path) -> None:
    model = Echo()
    task = EchoTask(["a", "bad", "c", "torn"], ready="c")
    done = evaluate(task, model, tmp_path / "r", settings())
    status = {item.id: item.status for item in read_bundle(tmp_path / "r")[1]}
    assert status == {"a": "ok", "bad": "error", "c": "ok", "torn": "error"}
    assert done.run.status == "partial" and model.asked == [["a", "bad"], ["a"], ["bad"]]


def test_a_first_batch_without_any_output_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match="none of the first 2"):
        evaluate(EchoTask(["bad1", "bad2", "c"]), Echo(), tmp_path / "r", settings(2))
    assert read_bundle(tmp_path / "r")[0].status == "failed"


def test_batches_are_judged_side_by_side_and_journaled_in_order(tmp_path: Path) -> None:
    """The first batch's judge waits for the second's; the fourth one fails, which costs nothing before it."""

    class SideBySide(EchoTask):
        judging_threads = 2
        second = threading.Event()

        def judge(self, units, requests, outputs, bundle):
            ids = {unit.id for unit in units}
            assert "a" not in ids or self.second.wait(60), "the second batch was not begun"
            if "c" in ids:
                self.second.set()
            if "g" in ids:
                raise RunFailed("the judge is gone")
            return super().judge(units, requests, outputs, bundle)

    with pytest.raises(RunFailed, match="the judge is gone"):
        evaluate(SideBySide([*"abcdefgh"]), Echo(), tmp_path / "r", settings(2))
    assert [item.id for item in read_bundle(tmp_path / "r")[1]] == [*"abcdef"]
    assert evaluate(EchoTask([*"abcdefgh"]), Echo(), tmp_path / "r", settings(2)).run.status == "complete"


@pytest.mark.parametrize("whole", [False, True])
def test_a_killed_run_continues_with_what_is_missing(tmp_path: Path, whole: bool) -> None:
    class Killed(Echo):
        def answer(self, questions, decoding):
            if "c" in [q.id for q in questions]:
                raise KeyboardInterrupt
            return super().answer(questions, decoding)

    ids = ["a", "b", "c", "d"]
    with pytest.raises(KeyboardInterrupt):
        evaluate(EchoTask(ids, whole_batches=whole), Killed(), tmp_path / "r", settings(2))
    assert [i.id for i in read_bundle(tmp_path / "r")[1]] == ["a", "b"]
    model = Echo()
    evaluate(EchoTask(ids, whole_batches=whole), model, tmp_path / "r", settings(2))
    assert model.asked == [["c", "d"]]
    assert [i.id for i in read_bundle(tmp_path / "r")[1]] == ids


def test_one_prompt_whose_images_are_all_refused_does_not_end_the_run(tmp_path: Path) -> None:
    class OnePrompt(EchoTask):
        def units(self):
            return [Unit(i, cluster=i[:3]) for i in self.ids]

    task = OnePrompt(["bad/1", "bad/2", "dog/1", "dog/2"])
    done = evaluate(task, Echo(), tmp_path / "r", settings(2))
    assert [i.status for i in read_bundle(tmp_path / "r")[1]] == ["error", "error", "ok", "ok"]
    assert done.run.status == "partial"


def test_a_resumed_run_is_running_for_every_reader_and_keeps_what_a_server_refused(tmp_path: Path) -> None:
    class Refused(Echo):
        served = {"adapted": {"temperature": "left out"}}  # noqa: RUF012

        def answer(self, questions, decoding):
            if any(q.id == "c" for q in questions):
                assert read_bundle(tmp_path / "r")[0].status == "running"
            return super().answer(questions, decoding)

    evaluate(EchoTask(["a", "b", "c", "bad"]), Refused(), tmp_path / "r", settings(2))
    again = evaluate(EchoTask(["a", "b", "c", "bad"]), Echo(), tmp_path / "r", settings(2))
    assert [r.kind for r in again.run.reservations] == ["decoding"]


def test_items_judged_as_they_come_are_not_mixed_with_another_scorers(tmp_path: Path) -> None:
    class Judged(EchoTask):
        version = "1"

        def describe(self, model) -> Described:
            told = super().describe(model)
            return replace(told, kind="ablate-heads", scorer=ScorerInfo(name="echo", version=self.version))

    evaluate(Judged(["a", "b", "bad"]), Echo(), tmp_path / "r", settings(2))
    Judged.version = "2"
    with pytest.raises(UserError, match="scorer differs"):
        evaluate(Judged(["a", "b", "bad"]), Echo(), tmp_path / "r", settings(2))


def test_a_model_without_the_ability_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot answer"):
        evaluate(EchoTask(["a"]), object(), tmp_path / "r", settings())
    assert not (tmp_path / "r").exists()


def test_a_prompt_is_drawn_with_its_own_seed() -> None:
    from armor_eval.engine.ask import ask
    from armor_eval.models.base import Decoding

    class Draws:
        def draw(self, prompts, seeds, decoding):
            return [f"{p}/{s}" for p, s in zip(prompts, seeds, strict=True)]

    requests = [Prompt("1", "a cat", 7), Ready("kept"), Prompt("2", "a dog", 8), ValueError("no")]
    outputs = ask(Draws(), requests, Decoding())
    assert outputs[:3] == ["a cat/7", "kept", "a dog/8"] and isinstance(outputs[3], ValueError)


def test_what_came_before_the_model_was_gone_is_kept_and_the_run_goes_on_from_there(tmp_path: Path) -> None:
    class Dies(Echo):
        def answer(self, questions, decoding):
            if "c" in [q.id for q in questions]:
                raise ModelUnavailable("quota spent", [None, Answer(text="d")])
            return super().answer(questions, decoding)

    with pytest.raises(RunFailed, match="quota spent"):
        evaluate(EchoTask(["a", "b", "c", "d", "e"]), Dies(), tmp_path / "r", settings(2))
    assert [i.id for i in read_bundle(tmp_path / "r")[1]] == ["a", "b", "d"]
    model = Echo()
    assert evaluate(EchoTask(["a", "b", "c", "d", "e"]), model, tmp_path / "r", settings(2)).run.status == "complete"
    assert model.asked == [["c", "e"]]


def test_a_resumed_run_is_not_ended_by_the_few_units_that_always_fail(tmp_path: Path) -> None:
    for _ in range(2):
        done = evaluate(EchoTask(["a", "b", "bad1", "bad2"]), Echo(), tmp_path / "r", settings(2))
        assert done.run.status == "partial" and done.scores.counts == {"ok": 2, "error": 2}


class TalkTask(EchoTask):
    """The same, of conversations."""

    def check(self, model) -> None:
        assert hasattr(model, "respond")

    def describe(self, model) -> Described:
        return replace(super().describe(model), kind="modality")

    def requests(self, units, folder):
        self.threads = getattr(self, "threads", set()) | {threading.current_thread().name}
        return [Conversation(u.id, [{"role": "user", "content": u.id}], seed=7) for u in units]

    def judge(self, units, requests, outputs, bundle):
        answers = [o if isinstance(o, Exception) else Answer(text="".join(o)) for o in outputs]
        return super().judge(units, requests, answers, bundle)


class Talker:
    """Responds as rows become free: at most `rows` under way, the shortest name first; a `bad` one fails its round."""

    info = ModelInfo(spec="talker", name="talker", fingerprint="f")

    def __init__(self) -> None:
        self.most, self.alone = 0, []

    def settings(self, decoding):
        return {}

    def encode_conversations(self, conversations, seeds, decoding):
        words = [c[0]["content"] for c in conversations]
        assert set(seeds) == {7}
        return [NotDrawnError("too long") if "long" in word else word for word in words]

    def responses(self, source, decoding, rows):
        under_way, number, more = {}, 0, True
        while more or under_way:
            while more and len(under_way) < rows:
                group = source(not under_way)
                more = group is not None
                if not group:
                    break
                for word in group:
                    under_way[number], number = word, number + 1
            self.most = max(self.most, len(under_way))
            if any("bad" in word for word in under_way.values()):
                raise RuntimeError("cannot")
            if under_way:
                first = min(under_way, key=lambda at: (len(under_way[at]), at))
                yield first, [under_way.pop(first)]

    def respond(self, conversations, seeds, decoding):
        self.alone += [c[0]["content"] for c in conversations]
        if any("bad" in c[0]["content"] for c in conversations):
            raise RuntimeError("cannot")
        return [[c[0]["content"]] for c in conversations]

    def close(self) -> None:
        pass


def test_conversations_take_the_rows_of_finished_ones_and_a_failure_costs_itself_alone(tmp_path: Path) -> None:
    ids = [f"u{i * 7919 % 1000}" for i in range(12)] + ["bad", "long"]
    model, task = Talker(), TalkTask(ids)
    evaluate(task, model, tmp_path / "r", replace(settings(2), workers=1))
    items = {i.id: i for i in read_bundle(tmp_path / "r")[1]}
    assert set(items) == set(ids)
    assert {i for i, item in items.items() if item.status == "error"} == {"bad", "long"}
    assert all(item.output == i for i, item in items.items() if item.status == "ok")
    assert "bad" in model.alone and len(model.alone) < 6, "only what was under way is asked again"
    assert "too long" in items["long"].reason and "cannot" in items["bad"].reason
    assert len(task.threads) == 1 and model.most >= 2


def test_begin_runs_once_before_asking_and_never_on_a_complete_run(tmp_path: Path) -> None:
    class Takes(EchoTask):
        begun = 0

        def begin(self, bundle, model) -> None:
            self.begun += 1
            units = [Unit("a", cluster="a")]
            bundle.append(self.judge(units, [None], [Answer(text="taken over")], bundle)[0])

    task, model = Takes(["a", "b"]), Echo()
    for _ in range(2):
        evaluate(task, model, tmp_path / "r", settings())
    assert task.begun == 1 and model.asked == [["b"]]
