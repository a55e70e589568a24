"""Continuous batching, side by side in one run: eight clients at once against the same requests one at a time."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import pytest
from test_perf_generation import PROMPT, nano  # noqa: F401 - a fixture

pytestmark = pytest.mark.perf
SIZE = "armor-nano's sizes, random weights"

CLIENTS, EACH, RUNS = 8, 2, 3


def test_eight_clients_against_one_at_a_time(nano, bench_row):  # noqa: F811
    """At least 3x the answers a second, greedy text answers and images equal. CPU seconds of the process."""
    from armor_model import GenerationSettings
    from armor_model.generation import encode
    from armor_model.serve.batching import Batcher, Job

    model, processor = nano
    settings = GenerationSettings(max_new_tokens=256, image_temperature=0.0)
    batcher = Batcher(model, processor, settings, CLIENTS, 64)
    batcher.start()
    kinds = {
        "text": replace(settings, max_new_tokens=48, allow_images=False),
        "images": replace(settings, max_new_tokens=1, max_images=1, force_image=True, stop_after_image=True),
    }
    words = PROMPT.split()

    def ask(i, kind):
        talk = [{"role": "user", "content": " ".join(words[i % 7 :])}]
        done, answer = threading.Event(), []
        job = Job(
            replace(encode(model, processor, talk, kinds[kind], i), settings=kinds[kind]),
            lambda event: (answer.append(event), done.set()),
        )
        batcher.submit([job])
        done.wait()
        return answer[0].tokens

    try:
        for kind in kinds:
            numbers = range(CLIENTS * EACH)
            times = {1: [], CLIENTS: []}
            answers = {}
            for _ in range(RUNS):
                for clients in times:
                    with ThreadPoolExecutor(clients) as pool:
                        began = time.process_time()
                        answers[clients] = list(pool.map(partial(ask, kind=kind), numbers))
                        times[clients].append(time.process_time() - began)
            assert answers[1] == answers[CLIENTS]
            ratio = min(times[1]) / min(times[CLIENTS])
            rate = len(numbers) / min(times[CLIENTS])
            bench_row(f"serve, {kind}, 8 clients against one at a time", ratio, "x", ">= 3", answers_per_s=rate)
            assert ratio >= 3
    finally:
        batcher.close()
