"""A stage's operations by formula are those that torch counts; the MFU is they over time and peak."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from train_helpers import pools, tiny_model

from trainer.batches import collate
from trainer.logs import LossMeter
from trainer.objective import Objective, freeze
from trainer.plan import Flops, peak_flops
from trainer.stages import STAGES


@pytest.mark.parametrize("stage", ["1", "2", "2-no-embeddings", "3", "base"])
@pytest.mark.parametrize("heads", ["switching", "single"])
def test_operations_are_what_torch_counts(stage, heads):
    """torch counts attention's scores too, which are little at these lengths, and no norms."""
    model = tiny_model(heads)
    freeze(model, STAGES[stage])
    flops, objective = Flops(model, STAGES[stage]), Objective(model, STAGES[stage])
    for kind, pool in pools(model.config, each=1).items():
        if kind not in STAGES[stage].mixture:
            continue
        batch = collate(pool, 0, model.config.imgbos_id)
        with FlopCounterMode(display=False) as counted:
            sums = objective(batch)
            (STAGES[stage].alpha * sums.text + STAGES[stage].beta * sums.image).backward()
        assert flops.of(batch) == pytest.approx(counted.get_total_flops(), rel=0.13), kind


def test_utilisation_is_operations_over_time_and_peak():
    class One:
        device = torch.device("cpu")

        @staticmethod
        def reduce(sums, _):
            return sums

    meter = LossMeter()
    meter.flops, meter.seconds = 6e12, 2.0
    assert meter.means(One(), peak_flops(One.device, 10.0))["mfu"] == pytest.approx(0.3)
    assert peak_flops(One.device) is None and "mfu" not in meter.means(One())


def test_peaks_are_found_by_the_devices_name(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 80GB HBM3")
    assert peak_flops(torch.device("cuda")) == 989.5e12
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "some card")
    assert peak_flops(torch.device("cuda")) is None
