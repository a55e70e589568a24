"""What drop a comparison can see, and how many clusters it takes.

The model is the one of `paired.py`: of C clusters a share changes, each moving the score by `size` / C, up or down.
Without a true difference wins and losses are equally likely; a drop of D adds losses. "Seen" means that the two-sided
test at 5 % rejects.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
from scipy import special

from .intervals import t_quantile
from .paired import Paired, tango

POWER = 0.8


def rejecting_tail(discordant: np.ndarray, alpha: float = 0.05) -> np.ndarray:
    """Largest smaller count at which exact McNemar still rejects among so many discordant pairs; -1 for never."""
    guess = np.floor(special.bdtrik(alpha / 2, np.maximum(discordant, 1), 0.5)) + 1
    k = np.where(np.isfinite(guess), guess, 1)
    for _ in range(3):  # the inverse is continuous: step down to the first count that truly rejects
        k = np.where((k >= 0) & (2 * special.bdtr(np.maximum(k, 0), discordant, 0.5) > alpha), k - 1, k)
    return np.where(discordant > 0, np.maximum(k, -1), -1)


def score_tail(discordant: np.ndarray, clusters: int, alpha: float = 0.05) -> np.ndarray:
    """Largest smaller count at which the score test of equal flips rejects, with Student's t; below 0 for never."""
    smaller: np.ndarray = (discordant - t_quantile(1 - alpha / 2, clusters - 1) * np.sqrt(discordant)) / 2
    return np.floor(smaller + 1e-9)


def flip_power(n: int, loss: float, win: float, tail: Callable[[np.ndarray], np.ndarray] = rejecting_tail) -> float:
    """Chance that a test rejects in the direction of a loss: exact McNemar, or the one whose `tail` is given.

    `loss`, `win`: rates of discordant pairs among n.
    """
    rate = min(1.0, loss + win)
    if rate <= 0:
        return 0.0
    spread = 6 * math.sqrt(n * rate) + 10
    first, last = max(0, int(n * rate - spread)), min(n, int(n * rate + spread))
    discordant = np.arange(first, last + 1)
    weight = special.bdtr(discordant, n, rate) - np.where(discordant > 0, special.bdtr(discordant - 1, n, rate), 0)
    most = tail(discordant)
    reject = np.where((most >= 0) & (discordant > 0), special.bdtr(np.maximum(most, 0), discordant, win / rate), 0.0)
    return float((weight * reject).sum())


def power_at(drop: float, clusters: int, changed: float, size: float, binary: bool) -> float:
    """Power to see a true drop.

    `changed`: share of clusters that differ between the runs when there is no true difference; `size`: see Flips.
    """
    loss = min(1.0, changed / 2 + drop / size)  # the drop adds losses
    tail = rejecting_tail if binary else partial(score_tail, clusters=max(2, clusters))
    return flip_power(clusters, loss, changed / 2, tail)


def detectable_drop(clusters: int, changed: float, size: float, binary: bool, power: float = POWER) -> float | None:
    """The smallest true drop that is seen with the given power; None when not even the largest would be."""
    if clusters < 2:
        return None
    low, high = 0.0, size * (1 - changed)  # what changes anyway and what is lost cannot exceed all clusters
    if power_at(high, clusters, changed, size, binary) < power:
        return None
    for _ in range(30):
        middle = (low + high) / 2
        if power_at(middle, clusters, changed, size, binary) < power:
            low = middle
        else:
            high = middle
    return high


def clusters_needed(drop: float, changed: float, size: float, binary: bool, power: float = POWER) -> int | None:
    """The smallest number of clusters that sees the drop with the given power; None beyond ten million."""
    low, high = 1, 2
    while power_at(drop, high, changed, size, binary) < power:
        low, high = high, high * 2
        if high > 10_000_000:
            return None
    while high - low > max(1, high // 500):
        middle = (low + high) // 2
        if power_at(drop, middle, changed, size, binary) < power:
            low = middle
        else:
            high = middle
    return high


def minimal_detectable_effect(paired: Paired, power: float = POWER) -> float | None:
    """The drop that this comparison would have seen, from the changes it has observed.

    The observed difference is taken out first, and the drop is taken to come in flips like the observed ones.
    """
    flips = paired.flips
    if paired.ci95 is None or paired.clusters < 2:
        return None
    changed = flips.share_without_difference(paired.clusters)
    return detectable_drop(paired.clusters, changed, flips.mean_size, paired.binary, power)


def clusters_to_decide(paired: Paired, tolerance: float) -> int | None:
    """How many clusters would end an INCONCLUSIVE verdict if the difference stayed what it is; None if none would."""
    if paired.ci95 is None:
        return None
    low, high = paired.ci95
    if paired.delta > -tolerance:
        ratio = (paired.delta - low) / (paired.delta + tolerance)
    elif paired.delta < -tolerance:
        ratio = (high - paired.delta) / -paired.delta
    else:
        return None
    needed = paired.clusters * max(1.0, ratio) ** 2
    return math.ceil(needed) + (ratio <= 1) if needed < 1e8 else None


def passing_clusters(tolerance: float, changed: float, size: float, power: float = POWER) -> int | None:
    """Clusters at which a candidate without any true difference passes with the given power."""

    def chance(n: int) -> float:
        low = size * tango(n * changed / 2, n * changed / 2, n)[0]
        slack = (tolerance + low) / (size * math.sqrt(changed / n)) if changed > 0 else math.inf * (tolerance + low)
        return float(special.ndtr(slack))

    low, high = 1, 2
    while chance(high) < power:
        low, high = high, high * 2
        if high > 10_000_000:
            return None
    while high - low > max(1, high // 500):
        middle = (low + high) // 2
        low, high = (middle, high) if chance(middle) < power else (low, middle)
    return high


def passing_tolerance(clusters: int, changed: float, size: float, power: float = POWER) -> float:
    """The smallest tolerance at which a candidate without any true difference passes with the given power."""
    low = size * tango(clusters * changed / 2, clusters * changed / 2, clusters)[0]
    return float(special.ndtri(power)) * size * math.sqrt(changed / clusters) - low


def exceeding_drop(tolerance: float, clusters: int, changed: float, size: float, power: float = POWER) -> float:
    """The smallest true drop that is measured above the tolerance with the given power: it adds losses, so its own
    spread is the root of z^2 size (size changed + drop) / clusters."""
    spread = float(special.ndtri(power)) ** 2 * size / clusters
    return tolerance + spread / 2 + math.sqrt(spread**2 / 4 + spread * (size * changed + tolerance))
