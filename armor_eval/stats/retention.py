"""Retention as a composite score: how much of a reference model's scores a run keeps, in percent, by the mean.

Every benchmark gives 100 x score / reference score; the number is their unweighted mean. One row of sums a cluster
carries the run's own sums and the reference's, benchmark by benchmark, so that a cluster is always left out, drawn or
flipped in all runs at once, and benchmarks that share questions (MME-P is part of MME) share the cluster. Two runs
against one reference are compared by `paired.compare_sums`, one run has its interval from `intervals.interval`: closed
forms both, so that no seed is involved; the bootstrap beside them draws all benchmarks from one generator, each
cluster independently of the others.

Legend: C clusters of all benchmarks, S sums of one benchmark.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from armor_eval.runs.schema import Item

from .composite import ClusterSums, Composite, ratio
from .intervals import Formula

NAME = "retention"
METRIC = "mean kept"


@dataclass(frozen=True)
class Part:
    """One benchmark of a retention: the run's sums and the reference's, over the same clusters."""

    benchmark: str
    space: str
    """The data's name: clusters of one name in one space are the same."""
    composite: Composite
    own: ClusterSums
    reference: ClusterSums


def retention(parts: Sequence[Part], name: str = METRIC) -> tuple[Composite, ClusterSums]:
    """The score and its sums [C, 2 x the sum of S]: own and reference columns of each benchmark in turn.

    Raises ValueError where there is no benchmark, the reference scores 0, or the two measured different clusters.
    """
    if not parts:
        raise ValueError("retention needs at least one benchmark")
    rows: dict[tuple[str, str], int] = {}
    for part in parts:
        if part.own.clusters != part.reference.clusters:
            raise ValueError(f"{part.benchmark}: the run and the reference measured different groups")
        base = float(part.composite.formula(part.reference.sums_CS.sum(axis=0)))
        if not base > 0:
            raise ValueError(f"{part.benchmark}: the reference scores {base:.1f}, nothing can be kept of it")
        for cluster in part.own.clusters:
            rows.setdefault((part.space, cluster), len(rows))
    widths = [part.own.sums_CS.shape[1] for part in parts]
    sums, at = np.zeros((len(rows), 2 * sum(widths))), 0
    for part, width in zip(parts, widths, strict=True):
        where = [rows[part.space, cluster] for cluster in part.own.clusters]
        sums[where, at : at + width] = part.own.sums_CS
        sums[where, at + width : at + 2 * width] = part.reference.sums_CS
        at += 2 * width
    formula = partial(mean_kept, tuple((p.composite.formula, width) for p, width in zip(parts, widths, strict=True)))
    columns, bounds = tuple(str(k) for k in range(at)), (0.0, float("inf"))
    composite = Composite(name, columns, _not_of_one_run, formula, bounds=bounds, primary=True)
    names = tuple(f"{space}/{cluster}" for space, cluster in rows)
    return composite, ClusterSums(names, sums, sum(part.own.items for part in parts))


def mean_kept(parts: tuple[tuple[Formula, int], ...], sums: np.ndarray) -> np.ndarray:
    """Sums [..., 2 x the sum of S] -> mean of 100 x score / reference score [...]; nan where a reference scores 0."""
    total, at = np.zeros(sums.shape[:-1]), 0
    for formula, width in parts:
        own, reference = sums[..., at : at + width], sums[..., at + width : at + 2 * width]
        total = total + ratio(formula(own), formula(reference))
        at += 2 * width
    return 100.0 * total / len(parts)


def _not_of_one_run(items: Sequence[Item]) -> dict[str, list[float]]:
    raise TypeError("retention is a score of two runs: build its sums with armor_eval.stats.retention")
