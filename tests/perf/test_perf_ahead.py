"""The model never waits: what comes before it runs ahead in worker threads, and rows refill while others still answer.

python -m pytest -m perf tests/perf/test_perf_ahead.py -s
"""

import io
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from armor_eval.engine import evaluate
from armor_eval.engine.ask import AsTheyFinish, Prepared, Streaming, asked_batches
from armor_eval.engine.batches import Size
from armor_eval.engine.run import Settings
from armor_eval.engine.task import Unit
from armor_eval.models.base import Answer, Decoding, Question
from armor_eval.tasks.drawn import drawn_elsewhere
from armor_eval.tasks.geneval import mask2former
from armor_eval.tasks.geneval.colors import ColorAnswer, composite_crop
from armor_eval.tasks.geneval.detections import Instances
from armor_eval.tasks.geneval.detectors import by_size
from armor_eval.tasks.geneval.folders import sample_path, scan_folder, write_metadata
from armor_eval.tasks.geneval.prompts import load_vocabulary, own_prompts
from armor_eval.tasks.geneval.task import GenEvalTask
from armor_model.images import tiles as cut

pytestmark = pytest.mark.perf
SIZE = "armor-nano"

ITEMS, BATCH = 128, 8


@pytest.fixture(scope="module")
def photo() -> bytes:
    """A 1024x768 JPEG with detail everywhere, as a photograph's."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (96, 128, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(small).resize((1024, 768), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


class SleepingModel:
    """Stands for an 8B model on a GPU: it takes its time and no CPU."""

    def __init__(self, seconds: float, tiles: int) -> None:
        self._seconds, self._tiles = seconds, tiles
        self.slept = 0.0

    def encode(self, questions, decoding):
        return [cut(q.parts[0].convert("RGB"), 448, self._tiles) for q in questions]

    def answers(self, source, decoding, rows):
        number = 0
        while (group := source(True)) is not None:
            time.sleep(self._seconds * len(group))
            self.slept += self._seconds * len(group)
            for _ in group:
                yield number, Answer(text="yes")
                number += 1


@pytest.mark.parametrize(("tiles", "seconds"), [(6, 0.075), (12, 0.150)])
def test_gpu_simulation(tiles, seconds, photo, bench_row):
    """A model that sleeps 75 ms an item at 6 tiles, 150 ms at 12: the share of the time that it is busy."""

    def requests(units):
        return [Question(unit.id, [Image.open(io.BytesIO(photo))]) for unit in units]

    def busy(ahead: bool) -> float:
        model = SleepingModel(seconds, tiles)
        serve = AsTheyFinish(model, Streaming(Question, model.encode, model.answers), Decoding(), Size(BATCH))
        units = [Unit(str(i), str(i)) for i in range(ITEMS)]
        batches = [units[i : i + BATCH] for i in range(0, ITEMS, BATCH)]
        began = time.perf_counter()
        if ahead:
            prepared = Prepared(batches, lambda some: serve.encoded(requests(some)))
            assert sum(len(asked.outputs) for asked in asked_batches(prepared, serve)) == ITEMS
        else:
            for some in batches:
                groups = iter([serve.encoded(requests(some))[1]])
                list(model.answers(lambda _, groups=groups: next(groups, None), Decoding(), BATCH))
        return model.slept / (time.perf_counter() - began)

    one_thread, ahead = busy(ahead=False), busy(ahead=True)
    bench_row(
        f"gpu_simulation: a model that sleeps {1000 * seconds:.0f} ms an item, {tiles} tiles: busy",
        ahead,
        "of 1",
        ">= 0.8",
        one_thread=one_thread,
        items=ITEMS,
    )
    assert ahead >= 0.8


def test_refill_against_whole_batches(bench_row):
    """Answers of 1 to about 40 words, 16 rows, armor-nano: steps and CPU-seconds; the same answers."""
    from armor_model import GenerationSettings, bundled, load
    from armor_model.generation.api import UNCONDITIONAL, encode
    from armor_model.generation.engine import Engine

    model, processor = load(bundled("armor-nano"))
    settings = GenerationSettings(max_new_tokens=64, allow_images=False)
    asked = [
        "is a circle round?",
        "what can you see in a picture of two red circles and a blue cross?",
        "hello",
        "describe a picture of a red circle and a blue cross and a green square.",
    ]
    prompts = [asked[i % 3] if i % 8 else asked[3] for i in range(256)]
    requests = [encode(model, processor, [{"role": "user", "content": p}], settings, i) for i, p in enumerate(prompts)]
    without = processor.encode_one(UNCONDITIONAL, add_generation_prompt=True).ids

    def engine() -> Engine:
        engine = Engine(model, settings, processor.stop_ids, without, batch_size=16)
        engine._step, engine.steps_taken = counted(engine, engine._step), 0
        return engine

    def counted(engine, step):
        def one(batch):
            engine.steps_taken += 1
            step(batch)

        return one

    def whole_batches(e: Engine):
        return [row.tokens for i in range(0, len(requests), 16) for row in e.run(requests[i : i + 16])]

    def refilled(e: Engine):
        return [row.tokens for row in e.run(requests)]

    cost, steps, tokens = {}, {}, {}
    for how in (whole_batches, refilled, whole_batches, refilled):
        e, began = engine(), time.process_time()
        tokens[how] = how(e)
        cost[how] = min(time.process_time() - began, cost.get(how, 1e9))
        steps[how] = e.steps_taken
    assert tokens[refilled] == tokens[whole_batches]
    lengths = [len(t) for t in tokens[refilled]]
    bench_row(
        "refill against whole batches, armor-nano, answers of mixed length: fewer steps",
        steps[whole_batches] / steps[refilled],
        "x",
        None,
        cpu=cost[whole_batches] / cost[refilled],
        shortest=min(lengths),
        longest=max(lengths),
        items=len(requests),
    )
    assert steps[refilled] < steps[whole_batches]


def pixels(folder, item) -> np.ndarray:
    """Of all images of an answer, one behind the other."""
    return np.concatenate(
        [np.zeros(0, int), *(np.asarray(Image.open(folder / i), int).ravel() for i in item.output_images)]
    )


def test_modality_refilled_against_whole_batches(bench_row, tmp_path, monkeypatch):
    """The same requests, in batches that each run to their longest answer, and refilled: passes of the model, which is
    what a large one takes time for. The texts are the same, and the images but for a pixel by one level here and there:
    the tokenizer's decoder rounds by how many it decodes at once."""
    from armor_eval.engine import Settings, evaluate
    from armor_eval.models import registry
    from armor_eval.profiles import profile_of
    from armor_eval.runs.bundle import read_bundle
    from armor_eval.tasks.modality.task import ModalityTask
    from armor_model.modeling import ArmorModel

    refilling, passes, backbone = registry.load(None, "shapes"), [], ArmorModel.backbone
    monkeypatch.setattr(ArmorModel, "backbone", lambda *args: (passes.append(1), backbone(*args))[1])

    class InBatches:
        """The same model, without what the engine refills through."""

        info, image_defaults = refilling.info, refilling.image_defaults
        respond, settings, close = refilling.respond, refilling.settings, refilling.close

    task = ModalityTask(profile_of("shapes"), limit=40)
    settings = Settings("shapes", ["perf"], Decoding(max_new_tokens=64), batch_size=16, shard=(0, 1))
    cost, steps, answers = {"batches": [], "refilled": []}, {}, {}
    for turn in range(-1, 4):
        for how, model in (("batches", InBatches()), ("refilled", refilling)):
            passes.clear()
            began, folder = time.process_time(), tmp_path / f"{how}{turn}"
            evaluate(task, model, folder, settings)
            if turn >= 0:
                cost[how].append(time.process_time() - began)
            steps[how] = len(passes)
            answers[how] = {i.id: (i.output, pixels(folder, i)) for i in read_bundle(folder)[1]}
    assert len(answers["refilled"]) == 200
    for name, (text, images) in answers["batches"].items():
        assert answers["refilled"][name][0] == text
        assert np.abs(answers["refilled"][name][1] - images).max(initial=0) <= 1
    pairs = sorted(b / r for b, r in zip(cost["batches"], cost["refilled"], strict=True))
    bench_row(
        "modality: batches of 16, against rows that refill, passes of the model",
        steps["batches"] / steps["refilled"],
        "x",
        None,
        size="armor-nano",
        cpu_lowest=pairs[0],
        cpu_highest=pairs[-1],
        items=200,
    )
    assert steps["refilled"] < steps["batches"]


def test_parallel_drawing(bench_row):
    """Passes a 16-code image of armor-nano takes when 16 codes are guessed at a time; the same images."""
    from armor_model import GenerationSettings, bundled, load
    from armor_model.generation.api import UNCONDITIONAL, encode
    from armor_model.generation.engine import Engine

    model, processor = load(bundled("armor-nano"))
    without = processor.encode_one(UNCONDITIONAL, add_generation_prompt=True).ids
    prompts = ["draw a red circle", "draw two blue squares and a green cross", "draw a yellow triangle"]
    for temperature in (0.0, 0.5, 1.0):
        base = GenerationSettings(
            image_temperature=temperature, force_image=True, stop_after_image=True, max_images=1, max_new_tokens=1
        )
        passes, seconds, images = {}, {}, {}
        for window in (0, 16):
            settings = replace(base, parallel_draw=window)
            conversations = [[{"role": "user", "content": prompts[i % 3]}] for i in range(48)]
            requests = [encode(model, processor, c, settings, i) for i, c in enumerate(conversations)]
            engine = Engine(model, settings, processor.stop_ids, without, batch_size=1)
            began = time.process_time()
            images[window] = [row.images for row in engine.run(requests)]
            seconds[window], passes[window] = time.process_time() - began, engine.passes
        assert images[16] == images[0]
        bench_row(
            f"parallel drawing, armor-nano, one row, temperature {temperature:g}: fewer passes",
            passes[0] / passes[16],
            "x",
            None,
            cpu=seconds[0] / seconds[16],
            images=48,
        )


class SleepingJudge:
    """Stands for Mask2Former and CLIP on one GPU, which sleep; images are resized and crops cut as for them."""

    def __init__(self, seconds: float) -> None:
        vocabulary = load_vocabulary("shapes")
        self.classes, self.colors, self.settings = vocabulary.classes, vocabulary.colors, {"detector": "sleeps"}
        self._seconds, self._gpu = seconds, threading.Lock()
        self.slept = 0.0

    def _sleep(self, images: int) -> None:
        with self._gpu:
            time.sleep(self._seconds * images)
            self.slept += self._seconds * images

    def self_check(self, rules) -> None:
        mask2former.resize([np.zeros((32, 32, 3), np.uint8)])  # its import is not what is measured

    def detect(self, images):
        return by_size(images, 8, self._seen)

    def _seen(self, images):
        mask2former.resize(images)
        self._sleep(len(images))
        high, wide = images[0].shape[:2]
        masks = np.zeros((2, high, wide), bool)
        masks[:, high // 4 : high // 2, wide // 4 : wide // 2] = True
        boxes = np.array([[wide // 4, high // 4, wide // 2, high // 2]] * 2, np.float32)
        one = Instances(np.arange(2), np.array([0.99, 0.95], np.float32), boxes, masks)
        return [one] * len(images)

    def name(self, crops):
        for crop in crops:
            composite_crop(crop).resize((224, 224), Image.Resampling.BICUBIC)
        self._sleep(len(crops) // 4)
        return [ColorAnswer(self.colors[0], 1.0) for _ in crops]


def test_geneval_judging_simulation(photo, tmp_path, bench_row):
    """A folder of 512x512 PNG files, judges that sleep 30 ms an image: the share of the time that they are busy."""
    prompts = own_prompts(load_vocabulary("shapes"))
    image = Image.open(io.BytesIO(photo)).convert("RGB").resize((512, 512))
    for i, record in enumerate(prompts.records):
        file = tmp_path / "images" / sample_path(i, 0)
        file.parent.mkdir(parents=True)
        image.save(file)
        write_metadata(tmp_path / "images", i, record)
    found = scan_folder(tmp_path / "images", load_vocabulary("shapes"), prompts, 1)

    def judged(threads: int) -> tuple[float, list[float | None]]:
        judge = SleepingJudge(0.03)
        task = GenEvalTask(prompts, judge, judge, images=found, samples=1)
        task.judging_threads = threads
        done = evaluate(task, drawn_elsewhere(found), tmp_path / str(threads), Settings("shapes", ["bench"]))
        seconds = len(prompts.records) / done.run.extras["timing"]["pictures_per_second"]
        return judge.slept / seconds, [metric.value for metric in done.scores.metrics]

    (one_thread, verdicts), (busy, same) = judged(1), judged(GenEvalTask.judging_threads)
    assert verdicts == same
    bench_row(
        "gpu_simulation: GenEval's judges sleep 30 ms an image of 512x512: busy",
        busy,
        "of 1",
        ">= 0.8",
        one_thread=one_thread,
        items=len(prompts.records),
        size="no model",
    )
    assert busy >= 0.8
