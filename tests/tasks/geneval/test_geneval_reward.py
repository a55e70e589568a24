"""The reward server: verdicts of the offline command, soft scores that agree with them, limits, loopback names only."""

import asyncio
import base64
import io
import json
import threading

import numpy as np
import pytest

pytest.importorskip("starlette", reason="the extra `serve` is not installed")

from geneval_world import PROMPTS, scene_for
from PIL import Image
from starlette.testclient import TestClient

from armor_eval.base.images import read_image, write_image
from armor_eval.shapes.detector import load_embedded
from armor_eval.tasks.geneval.colors import load_colors
from armor_eval.tasks.geneval.judging import judge_images
from armor_eval.tasks.geneval.prompts import Metadata, load_vocabulary
from armor_eval.tasks.geneval.reward import Limits, Reward, make_app
from armor_eval.tasks.geneval.verdicts import Rules, judge, soft_score
from trainer.shapes.world import render

SHAPES = load_vocabulary("shapes")


@pytest.fixture(scope="module")
def reward():
    detector = load_embedded("embedded", SHAPES, weights=None, download=False, device="cpu", batch=32)
    colors = load_colors(SHAPES, weights=None, download=False, device="cpu")
    return Reward(SHAPES, detector, colors, limits=Limits(images=40, megapixels=1, body=2**20, waiting=2))


@pytest.fixture(scope="module")
def client(reward):
    with TestClient(make_app(reward), base_url="http://127.0.0.1:8766") as client:
        yield client


def base64_of(image):
    held = io.BytesIO()
    image.save(held, format="PNG")
    return base64.b64encode(held.getvalue()).decode()


THIN = base64_of(Image.new("RGB", (3000, 1)))


@pytest.fixture(scope="module")
def batch(tmp_path_factory):
    """Right images, and the same under the next prompt's record, as files and as a request."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    records = PROMPTS.records[::9]
    files = [folder / f"{i}.png" for i in range(len(records))]
    for file, record in zip(files, records, strict=True):
        write_image(file, render(scene_for(record, rng)))
    files, records = files * 2, records + records[1:] + records[:1]
    return files, {"images": [base64.b64encode(f.read_bytes()).decode() for f in files], "metadata": records}


def test_verdicts_are_those_of_the_offline_judge(reward, client, batch):
    files, request = batch
    images = [np.asarray(read_image(file, file.parent)[0]) for file in files]
    metas = [Metadata.model_validate(record) for record in request["metadata"]]
    expected = [one.verdict for one in judge_images(images, metas, reward.detector, reward.colors, reward.rules)]
    answer = client.post("/reward", json=request)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert found["strict"] == [int(v.correct) for v in expected] and {0, 1} == set(found["strict"])
    assert found["reasons"] == [v.reason for v in expected]
    assert [s == 1.0 for s in found["scores"]] == [v.correct for v in expected]
    assert any(0 < s < 1 for s in found["scores"])


def test_health_says_what_judges(client):
    judge_settings = client.get("/health").json()["judge"]
    assert judge_settings["profile"] == "shapes" and judge_settings["counting_threshold"] == 0.9


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (lambda b: [], 400, "expected"),
        (lambda b: {**b, "metadata": b["metadata"][:-1]}, 400, "one of each"),
        (lambda b: {**b, "images": ["https://example.org/a.png", *b["images"][1:]]}, 400, "images[0]"),
        (lambda b: {**b, "images": [*b["images"][:-1], base64.b64encode(b"no image").decode()]}, 400, "not an image"),
        (lambda b: {**b, "images": [*b["images"][:-1], THIN]}, 400, "images[31]: it is 3000 x 1 pixels"),
        (lambda b: {**b, "metadata": [{"tag": "colors"}, *b["metadata"][1:]]}, 400, "metadata[0]"),
        (lambda b: {k: v * 2 for k, v in b.items()}, 413, "at most 40"),
        (lambda b: {"images": [b["images"][0] * 99], "metadata": b["metadata"][:1]}, 400, "images[0]"),
    ],
)
def test_what_cannot_be_judged_is_refused_whole(client, batch, change, code, words):
    answer = client.post("/reward", json=change(batch[1]))
    assert answer.status_code == code and words in answer.json()["error"]["message"], answer.text


def test_limits_and_foreign_pages(client, batch):
    assert client.post("/reward", content=b"x" * (2**20 + 1), headers=JSON).status_code == 413
    assert client.post("/reward", content=b"[" * 100_000, headers=JSON).status_code == 400
    assert (
        client.post("/reward", content=json.dumps(batch[1]), headers={"Content-Type": "text/plain"}).status_code == 415
    )
    assert client.post("/reward", json=batch[1], headers={"Host": "evil.example"}).status_code == 400
    assert client.get("/reward").status_code == 405


JSON = {"Content-Type": "application/json"}


def test_a_full_queue_is_refused_and_empties_again(reward, batch):
    """Of five batches at once one is judged and one waits; the others are told when to ask again."""
    httpx = pytest.importorskip("httpx")
    go_on = threading.Event()

    class Slow(Reward):
        def judge(self, request):
            assert go_on.wait(600)
            return super().judge(request)

    slow = Slow(reward.vocabulary, reward.detector, reward.colors, limits=reward.limits)
    request = {name: values[:1] for name, values in batch[1].items()}

    async def five():
        transport = httpx.ASGITransport(make_app(slow))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8766") as client:
            asked = [asyncio.create_task(client.post("/reward", json=request)) for _ in range(5)]
            first = [await done for _, done in zip(range(3), asyncio.as_completed(asked), strict=False)]
            go_on.set()
            answers = await asyncio.gather(*asked)
            return first, answers, await client.post("/reward", json=request)

    first, answers, later = asyncio.run(five())
    assert [answer.status_code for answer in answers] == [200, 200, 429, 429, 429] and later.status_code == 200
    assert all(int(answer.headers["Retry-After"]) >= 1 and "2 batches" in answer.text for answer in first)


def test_a_batch_of_too_many_pixels_is_refused(client, tmp_path):
    from PIL import Image

    write_image(tmp_path / "large.png", Image.new("RGB", (1200, 1200)))
    text = "data:image/png;base64," + base64.b64encode((tmp_path / "large.png").read_bytes()).decode()
    answer = client.post("/reward", json={"images": [text], "metadata": PROMPTS.records[:1]})
    assert answer.status_code == 413 and "megapixels" in answer.text


def test_soft_score_is_one_exactly_where_the_verdict_is_right():
    """Random detections under every kind of prompt, colours among them."""
    rng, rules, agree = np.random.default_rng(1), Rules(), {True: 0, False: 0}
    for record in PROMPTS.records * 6:
        meta = Metadata.model_validate(record)
        boxes, colors = {}, {}
        for wanted in meta.include:
            corners = rng.uniform(0, 40, (int(rng.integers(0, 5)), 2))
            scores = sorted(rng.uniform(0.8, 1, len(corners)), reverse=True)
            boxes[wanted.name] = [(x, y, x + 9, y + 9, s) for (x, y), s in zip(corners, scores, strict=True)]
            colors[wanted.name] = [str(rng.choice([wanted.color or "red", "grey"])) for _ in corners]
        verdict = judge(meta, boxes, lambda name, at, colors=colors: [colors[name][i] for i in at], rules)
        soft = soft_score(meta, boxes, colors, rules)
        assert 0 <= soft <= 1 and (soft == 1) == verdict.correct, (record, boxes, colors)
        agree[verdict.correct] += 1
    assert min(agree.values()) > 50


def test_soft_score_by_hand():
    """Two of three circles, one of the two red: mean of 2/3 and 1/3."""
    meta = Metadata.model_validate(
        {"tag": "colors", "prompt": "p", "include": [{"class": "circle", "count": 3, "color": "red"}]}
    )
    boxes = {"circle": [(0, 0, 9, 9, 0.99), (20, 0, 29, 9, 0.98)]}
    assert soft_score(meta, boxes, {"circle": ["red", "blue"]}) == pytest.approx(0.5)


@pytest.mark.parametrize(("circles", "score"), [(0, 0.0), (1, 1 / 3), (3, 1.0), (4, (1 + 3 / 4) / 2)])
def test_soft_score_of_a_count_that_must_not_be_passed(circles, score):
    """Mean of found / 3 and (allowed / found) * (found / 3): nothing too many is worth nothing where nothing is."""
    meta = Metadata.model_validate(
        {
            "tag": "counting",
            "prompt": "p",
            "include": [{"class": "circle", "count": 3}],
            "exclude": [{"class": "circle", "count": 4}],
        }
    )
    boxes = {"circle": [(20 * at, 0, 20 * at + 9, 9, 0.99) for at in range(circles)]}
    assert soft_score(meta, boxes, {}) == pytest.approx(score)
