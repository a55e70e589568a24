"""The data loader: the order of the data, each process's own slice of it, and what a bad image costs."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from train_helpers import pools, tiny_model

from armor_model.base.errors import RunFailed, UserError
from trainer import loader as loading
from trainer.batches import Sizes
from trainer.config import Optimization
from trainer.data.shards import ShardPool
from trainer.loader import DataLoader, Mixture

COUNTS = {"t2t": 30, "ti2t": 14, "t2i": 50, "t2ti": 20}
ORDER = {  # (processes, accumulation, packed rows) -> sha256 of all they read in 12 steps, as they did before slices
    (1, 1, None): "fdd329fa2efd8bdda59eabcfd62b6eba707a3d4891b50d330a52907d4d4a6141",
    (2, 2, None): "45e17e3405c1a57ac0e0c32e3f5248b2ab618b14fb3c3f872554c75cf67ff19b",
    (4, 1, 200): "ea044793d981e6a06801c9fbdedc5232a107dfde8ea50479f986967f5ee3a0a7",
}


@pytest.fixture(scope="module")
def config():
    return tiny_model().config


def loader(config, mixture, rank=0, world=1, pack_to=None, steps=12, accumulate=1, **options):
    how = Optimization(steps, mixture.batch_size, accumulate=accumulate)
    return DataLoader(mixture, how, (rank, world), (0, config.imgbos_id), pack_to, **options)


@pytest.mark.parametrize("setting", ORDER)
def test_the_order_of_the_data_is_that_of_earlier_releases(config, setting):
    world, accumulate, pack_to = setting
    data, digest = pools(config, each=20), hashlib.sha256()
    for rank in range(world):
        ours = loader(config, Mixture(data, COUNTS, 16, 5, 0.3), rank, world, pack_to, accumulate=accumulate)
        for step in range(12):
            for batch in ours.micro_batches(step):
                for tensor in (batch.input_ids, batch.text_labels, batch.image_labels):
                    digest.update(tensor.numpy().tobytes())
        ours.close()
    assert digest.hexdigest() == ORDER[setting]


class Counted(ShardPool):
    """Knows its sizes, as shards do, and what was read of it."""

    def __init__(self, examples):
        self.examples, self.read = examples, []

    def __len__(self):
        return len(self.examples)

    def __getitem__(self, index):
        self.read.append(index)
        return self.examples[index]

    def sizes(self, indices_N):
        mine = [self.examples[i] for i in indices_N]
        return Sizes(*(np.array(x) for x in ([len(e) for e in mine], [e.request for e in mine], [True] * len(mine))))


def test_of_64_processes_each_reads_its_own_slice(config):
    examples = pools(config, each=300)["t2i"]
    for world, batch_size in ((1, 4), (64, 256)):
        data = {"t2i": Counted(examples)}
        ours = loader(config, Mixture(data, {"t2i": 256}, batch_size, 5, 0.5), world - 1, world, steps=3, ahead=1)
        rows = sum(len(batch.input_ids) for step in range(3) for batch in ours.micro_batches(step))
        ours.close()
        assert rows == len(data["t2i"].read) == 3 * 4, world


@pytest.mark.parametrize("start", [0, 5])
def test_worker_processes_make_the_same_batches(config, start):
    data = pools(config, each=20)
    ours, plain = (loader(config, Mixture(data, COUNTS, 16, 5, 0.3), 1, 2, workers=w, steps=8) for w in (2, 0))
    for step in range(start, 8):
        for a, b in zip(ours.micro_batches(step), plain.micro_batches(step), strict=True):
            assert torch.equal(a.input_ids, b.input_ids) and torch.equal(a.text_labels, b.text_labels)
            assert (a.pixels is None and b.pixels is None) or torch.equal(a.pixels, b.pixels)
    assert ours.images == plain.images
    ours.close(), plain.close()


@pytest.mark.parametrize("workers", [0, 1])
def test_what_is_wrong_with_a_batch_is_one_line(config, workers):
    ours = loader(config, Mixture(pools(config), COUNTS, 16, 5), pack_to=5, workers=workers)
    with pytest.raises(UserError, match=r"^an example of \d+ positions does not fit into a packed row of 5$"):
        ours.micro_batches(0)
    ours.close()


def lazily(example, opened):
    """Its images are read when they are asked for; `opened` fails as often as it says."""

    def pixels():
        if next(opened, "good") == "bad":
            raise UserError("bad.png is damaged")
        return torch.zeros(1, 3, 8, 8)

    return replace(example, pixels=pixels)


def test_an_image_that_is_bad_for_a_moment_is_asked_for_again(config, monkeypatch):
    monkeypatch.setattr(loading, "PAUSES", (0, 0))
    examples = [lazily(e, iter(["bad"] * (i == 1))) for i, e in enumerate(pools(config, 4)["ti2t"])]
    ours = loader(config, Mixture({"ti2t": examples}, {"ti2t": 4}, 4, 5), steps=1, bad_images=0)
    (batch,) = ours.micro_batches(0)
    assert (ours.images.read, ours.images.retried, ours.images.replaced) == (4, 1, 0)
    assert len(batch.input_ids) == 4


def test_a_bad_image_is_replaced_by_the_next_record_and_counted(config, monkeypatch, caplog):
    monkeypatch.setattr(loading, "PAUSES", (0, 0))
    plain = pools(config, 10)["ti2t"]
    examples = [lazily(e, iter(["bad"] * 99 * (i in (2, 3, 9)))) for i, e in enumerate(plain)]
    mixture = Mixture({"ti2t": examples}, {"ti2t": 10}, 10, 5)
    ours = loader(config, mixture, steps=1, bad_images=0.01)
    (batch,) = ours.micro_batches(0)
    # 2 falls on 3, which is bad too, so on 4; 3 on 4; 9 on 0
    want = sorted(len(plain[i]) for i in (0, 1, 4, 4, 4, 5, 6, 7, 8, 0))
    assert sorted((batch.kinds >= 0).sum(1).tolist()) == want
    assert (ours.images.read, ours.images.replaced) == (14, 4)
    assert caplog.text.count("the next record takes its place: bad.png is damaged") == 4
    strict = loader(config, mixture, steps=1, bad_images=0.003)
    with pytest.raises(RunFailed, match=r"^4 of 14 conversations had bad images, more than 0\.30% of 1,000; the last"):
        strict.micro_batches(0)
    ours.close(), strict.close()


def test_where_every_image_is_bad_the_run_ends(config, monkeypatch):
    monkeypatch.setattr(loading, "PAUSES", ())
    examples = [lazily(e, iter(["bad"] * 999)) for e in pools(config, 4)["ti2t"]]
    with pytest.raises(RunFailed, match="a hundred records in a row"):
        loader(config, Mixture({"ti2t": examples}, {"ti2t": 4}, 4, 5), steps=1, bad_images=1).micro_batches(0)
