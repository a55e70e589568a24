"""The worlds of the simulation: clusters of answers with a known truth, in the sums of the product's scores.

A cluster has a difficulty p, beta-distributed (its items are alike), and its items are right with chance p. The
candidate answers a `touched` cluster afresh, which is exchangeable, hence no true difference. A `hit` cluster then
loses right answers, a `worse` one keeps its fresh answers only where fewer are right. Expected sums, and with them the
true score of both arms, are exact: Gauss-Jacobi quadrature over the beta distribution.

Legend: C clusters, m items of a cluster, S sums, K nodes of the quadrature.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy import optimize, special

from armor_eval.stats.composite import ClusterSums, Composite
from armor_eval.stats.retention import Part, retention
from armor_eval.tasks.formulas import composites_for


@dataclass(frozen=True)
class Change:
    touched: float
    hit: float = 0.0
    lost: float = 0.0
    """Chance of a right answer of a hit cluster to be lost."""
    worse: float = 0.0


def nodes(rate: np.ndarray | float, alike: float) -> tuple[np.ndarray, np.ndarray]:
    """Difficulties [..., K] and their weights [..., K]; `alike` is the correlation of two items of a cluster."""
    rates = np.atleast_1d(np.asarray(rate, dtype=float))
    if alike == 0:
        return rates[:, None], np.ones((len(rates), 1))
    spread = (1 - alike) / alike
    with np.errstate(invalid="ignore"):  # scipy computes a term that it does not use
        pairs = [special.roots_sh_jacobi(24, spread - 1, r * spread) for r in rates]
    return np.array([p for p, _ in pairs]), np.array([w / w.sum() for _, w in pairs])


def difficulties(rate: np.ndarray | float, alike: float, clusters: int, rng: np.random.Generator) -> np.ndarray:
    """Chance of a right answer by cluster [C]."""
    if alike == 0:
        return np.broadcast_to(np.asarray(rate, dtype=float), (clusters,))
    spread = (1 - alike) / alike
    return rng.beta(np.asarray(rate) * spread, (1 - np.asarray(rate)) * spread, clusters)


def answers(p_C: np.ndarray, m: int, change: Change, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Right or wrong of both arms [C, m]."""
    C = len(p_C)
    base, fresh = rng.random((C, m)) < p_C[:, None], rng.random((C, m)) < p_C[:, None]
    u = rng.random(C)
    again = (u < change.touched) | (
        (u > 1 - change.worse) & (fresh.sum(1) < base.sum(1)) if change.worse else np.zeros(C, bool)
    )
    candidate = np.where(again[:, None], fresh, base)
    if change.hit:
        candidate &= ~((rng.random(C) < change.hit)[:, None] & (rng.random((C, m)) < change.lost))
    return base, candidate


@dataclass(frozen=True)
class World:
    name: str
    composite: Composite
    clusters: int
    items: int
    """A cluster."""
    rate: float
    alike: float
    sums: Callable[[np.ndarray, np.ndarray], np.ndarray]
    """Right or wrong [C, m], a uniform number a cluster that both arms share [C] -> sums [C, S]."""
    expected: Callable[[np.ndarray, int], np.ndarray]
    """Chances of a right answer [..., K], m -> expected sums of a cluster [..., K, S]."""
    kinds: tuple[float, ...] = (1.0,)
    """Rates of kinds of clusters (tasks) relative to `rate`; cluster i is of kind i modulo their number."""
    binary: bool = False
    """One 0/1 outcome a cluster: exact rates replace the simulated ones."""
    ends: tuple[float, float] = (0.0, 100.0)
    """The score of a run that is always wrong, and of a faultless one."""

    def rates(self) -> np.ndarray:
        return np.clip(self.rate * np.array(self.kinds), 0.005, 0.995)

    def resized(self, clusters: int, rate: float | None = None) -> World:
        return replace(self, clusters=clusters, rate=self.rate if rate is None else rate)

    def draw(self, change: Change, rng: np.random.Generator, clusters: int | None = None) -> list[np.ndarray]:
        """Sums [C, S] of both arms."""
        C = clusters or self.clusters
        p_C = difficulties(np.resize(self.rates(), C), self.alike, C, rng)
        u_C = rng.random(C)
        return [self.sums(x, u_C) for x in answers(p_C, self.items, change, rng)]

    def arms(self, change: Change, rng: np.random.Generator) -> tuple[Composite, list[ClusterSums]]:
        names = tuple(map(str, range(self.clusters)))
        return self.composite, [ClusterSums(names, s, 0) for s in self.draw(change, rng)]

    def mean_sums(self, change: Change | None = None) -> np.ndarray:
        """Expected sums [S] of the candidate (of the base without a change), exact. Not for `worse`."""
        p_GK, w_GK = nodes(self.rates(), self.alike)
        made = self.expected(p_GK, self.items)
        if change is not None and change.hit:
            made = (1 - change.hit) * made + change.hit * self.expected(p_GK * (1 - change.lost), self.items)
        by_kind = (made * w_GK[..., None]).sum(axis=1)
        if len(self.kinds) == 1:
            return by_kind[0]
        # The clusters of one kind fill the columns of that kind, exactly as `sums` lays them out.
        counts = np.bincount(np.arange(self.clusters) % len(self.kinds), minlength=len(self.kinds))
        return (by_kind * counts[:, None] / self.clusters).reshape(-1)

    def truth(self, change: Change | None = None) -> float:
        return float(self.composite.formula(self.mean_sums(change)))

    def at_score(self, share: float, clusters: int) -> World | None:
        """The same world of so many clusters whose true score lies at that share of its range; None if none does."""
        target = self.ends[0] + share * (self.ends[1] - self.ends[0])

        def excess(rate: float) -> float:
            return self.resized(clusters, rate).truth() - target

        highest = 0.994 / min(self.kinds)
        if excess(0.006) > 0 or excess(highest) < 0:
            return None
        return self.resized(clusters, float(optimize.brentq(excess, 0.006, highest, xtol=1e-7)))

    def flip_rates(self, change: Change) -> tuple[float, float]:
        """Chance of a loss and of a win of a cluster, exact; binary worlds only."""
        p, w = nodes(self.rates(), self.alike)
        a = p**self.items
        kept = 1 - change.hit + change.hit * (1 - change.lost) ** self.items
        apart = float((w * change.touched * a * (1 - a)).sum())
        both = float((w * (a * (1 - change.touched) + change.touched * a * a)).sum())
        return apart + both * (1 - kept), apart * kept


@dataclass(frozen=True)
class RetentionWorld:
    """Three benchmarks at once, and a reference model that gets 30 % of what the run gets wrong."""

    name: str
    parts: tuple[World, ...]
    binary: bool = False
    items: int = 0

    @property
    def clusters(self) -> int:
        return sum(part.clusters for part in self.parts)

    @property
    def alike(self) -> float:
        return self.parts[0].alike

    def arms(self, change: Change, rng: np.random.Generator) -> tuple[Composite, list[ClusterSums]]:
        made: list[list[Part]] = [[], []]
        for part in self.parts:
            p_C = difficulties(part.rate, part.alike, part.clusters, rng)
            u_C = rng.random(part.clusters)
            reference = part.sums(answers(0.3 + 0.7 * p_C, part.items, Change(0.0), rng)[0], u_C)
            names = tuple(map(str, range(part.clusters)))
            for arm, x in zip(made, answers(p_C, part.items, change, rng), strict=True):
                own = ClusterSums(names, part.sums(x, u_C), 0)
                arm.append(Part(part.name, part.name, part.composite, own, ClusterSums(names, reference, 0)))
        (composite, base), (_, candidate) = (retention(arm) for arm in made)
        return composite, [base, candidate]

    def reference_value(self, part: World) -> float:
        p, w = nodes(part.rate, part.alike)
        made = part.expected(0.3 + 0.7 * p, part.items) * w[..., None]
        return float(part.composite.formula(made.sum(axis=1)[0]))

    def truth(self, change: Change | None = None) -> float:
        return float(np.mean([100 * part.truth(change) / self.reference_value(part) for part in self.parts]))

    def at_score(self, share: float, clusters: int) -> RetentionWorld | None:
        """Every benchmark of so many clusters and that true score of the run (not of what is kept)."""
        parts = [part.at_score(share, clusters) for part in self.parts]
        return None if None in parts else replace(self, parts=tuple(parts))


# --- answers [C, m] -> sums, and their expectation ---------------------------------------------------------------


def _stack(*columns: np.ndarray) -> np.ndarray:
    return np.stack(np.broadcast_arrays(*[np.asarray(c, dtype=float) for c in columns]), axis=-1)


def mean_sums(x: np.ndarray, u_C: np.ndarray) -> np.ndarray:
    return _stack(x.sum(1), x.shape[1])


def graded_sums(x: np.ndarray, u_C: np.ndarray) -> np.ndarray:
    """A judge's grade in tenths."""
    return _stack(x.mean(1), 1)


def circular_sums(x: np.ndarray, u_C: np.ndarray) -> np.ndarray:
    return _stack(x.all(1), 1)


def pope_sums(x: np.ndarray, u_C: np.ndarray) -> np.ndarray:
    half = x.shape[1] // 2
    tp, fp = x[:, :half].sum(1), (~x[:, half:]).sum(1)
    return _stack(tp, fp, half - tp, x.sum(1), x.shape[1])


def _by_kind(values: list[np.ndarray], kinds: int) -> np.ndarray:
    sums, r = np.zeros((len(values[0]), len(values) * kinds)), np.arange(len(values[0]))
    for k, value in enumerate(values):
        sums[r, len(values) * (r % kinds) + k] = value
    return sums


def mme_sums(x: np.ndarray, u_C: np.ndarray) -> np.ndarray:
    return _by_kind([x.sum(1), np.full(len(x), 2), x.all(1), np.ones(len(x))], 14)


def geneval_sums(x: np.ndarray, u_C: np.ndarray) -> np.ndarray:
    return _by_kind([x.sum(1), np.full(len(x), x.shape[1])], 6)


def hallusion_sums(x: np.ndarray, u_C: np.ndarray) -> np.ndarray:
    x = x.reshape(len(x), 3, 3)
    return _stack(x.sum((1, 2)), 9, x.all(2).sum(1), 3, x.all(1).sum(1), 3)


def llava_sums(x: np.ndarray, u_C: np.ndarray) -> np.ndarray:
    """Marks: 8 for a good answer, 4 for a poor one; the reference has 8 in half of the clusters, 9 in the others."""
    m = x.shape[1]
    return _stack(np.where(x, 8, 4).sum(1), m * (8 + (u_C < 0.5)), m)


def _pope(q: np.ndarray, m: int) -> np.ndarray:
    half = m // 2
    return _stack(half * q, half * (1 - q), half * (1 - q), m * q, m)


def primary(benchmark: str) -> Composite:
    return next(c for c in composites_for(benchmark) if c.primary)


SEED = World("accuracy, 5 an image", primary("SEED"), 400, 5, 0.7, 0.3, mean_sums, lambda q, m: _stack(m * q, m))
MMBENCH = World(
    "MMBench circular", primary("MMB"), 1164, 4, 0.9, 0.5, circular_sums, lambda q, m: _stack(q**m, 1), binary=True
)
POPE = World("POPE F1", primary("POPE"), 500, 18, 0.85, 0.2, pope_sums, _pope)

WORLDS: tuple[World | RetentionWorld, ...] = (
    World(
        "accuracy, unclustered", primary("MMMU"), 900, 1, 0.55, 0.0, mean_sums, lambda q, m: _stack(q, 1), binary=True
    ),
    SEED,
    MMBENCH,
    World(
        "MME",
        primary("MME"),
        1190,
        2,
        0.75,
        0.3,
        mme_sums,
        lambda q, m: _stack(2 * q, 2, q**2, 1),
        (1.0,) * 14,
        ends=(0.0, 2800.0),
    ),
    World(
        "HallusionBench",
        primary("HallusionBench"),
        400,
        9,
        0.6,
        0.2,
        hallusion_sums,
        lambda q, m: _stack(9 * q, 9, 3 * q**3, 3, 3 * q**3, 3),
    ),
    POPE,
    World("MMVet grades", primary("MMVet"), 218, 10, 0.6, 0.8, graded_sums, lambda q, m: _stack(q, 1)),
    World(
        "LLaVABench ratio",
        primary("LLaVABench"),
        200,
        2,
        0.6,
        0.3,
        llava_sums,
        lambda q, m: _stack(m * (4 + 4 * q), 8.5 * m, m),
        ends=(400 / 8.5, 800 / 8.5),
    ),
    World(
        "GenEval",
        primary("geneval"),
        552,
        4,
        0.47,
        0.2,
        geneval_sums,
        lambda q, m: _stack(m * q, m),
        tuple(np.array([0.95, 0.6, 0.3, 0.7, 0.1, 0.15]) / 0.46667),
        ends=(0.0, 1.0),
    ),
    RetentionWorld("retention, 3 benchmarks", (SEED, MMBENCH.resized(400), POPE.resized(300))),
)
