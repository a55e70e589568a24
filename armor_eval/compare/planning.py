"""What `armor-eval power` says: detectable drops and needed sizes, from assumptions or from two real runs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from armor_eval.compare import text
from armor_eval.errors import UserError

OFFICIAL_CLUSTERS = {
    "MMMU": (900, 900), "MMB": (4329, 1164), "SEED": (14232, 14232), "MME": (2374, 1187), "MME-P": (2114, 1057),
    "POPE": (5127, 500), "MMVet": (218, 218), "LLaVABench": (60, 24),
    "geneval": (2212, 553),
}  # fmt: skip
"""Benchmark -> (items, groups that are resampled together), of the published data."""


@dataclass(frozen=True)
class Plan:
    benchmark: str
    metric: str
    unit: str
    clusters: int
    items_per_cluster: float
    changed: float
    flip: float
    """Change of the number, times the groups, that one changed group makes."""
    assumed: str
    detectable: float | None
    """Drop that is seen with 80 % power at this size."""
    drop: float | None
    needed: int | None
    """Groups that see `drop` with 80 % power."""
    passing: int | None
    """Groups at which an equal model passes with 80 % power, the tolerance being `drop`."""

    def as_dict(self) -> dict:
        return asdict(self)

    def in_words(self) -> str:
        items = round(self.clusters * self.items_per_cluster)
        lines = [
            f"{self.benchmark}, {self.metric}: {items:,} items in {self.clusters:,} groups; {self.assumed}",
            f"a true drop of {self._shown(self.detectable)} is seen with 80 % power (two-sided test at 5 %)"
            if self.detectable is not None
            else "no drop can be seen with 80 % power at this size",
        ]
        if self.drop is not None:
            lines.append(f"to see a drop of {self._shown(self.drop)}: {self._size(self.needed)}")
            lines.append(
                f"for an equal model to PASS at tolerance {self._shown(self.drop)}: {self._size(self.passing)}"
            )
        return "\n".join(lines)

    def _shown(self, value: float | None) -> str:
        return text.plain(value, self.unit, False)

    def _size(self, clusters: int | None) -> str:
        if clusters is None:
            return "more than ten million groups"
        return f"{clusters:,} groups, about {round(clusters * self.items_per_cluster):,} items"


def plan(
    benchmark: str, drop: float | None, clusters: int | None, changed: float, runs: tuple[Path, Path] | None
) -> Plan:
    """Raises UserError for an unknown benchmark, a drop out of range, or runs that cannot be compared."""
    from armor_eval.stats.composite import REGISTRY, composites_for
    from armor_eval.stats.power import clusters_needed, detectable_drop, passing_clusters

    try:
        composite = next(c for c in composites_for(benchmark) if c.primary)
    except KeyError as error:
        raise UserError(str(error.args[0])) from None
    benchmark = next(name for name in REGISTRY if name.lower() == benchmark.lower())
    low, high = composite.bounds
    span = high - low if high < float("inf") else 100.0
    if drop is not None and not 0 < drop < span:
        raise UserError(f"--drop {drop:g} is not between 0 and {span:g} {composite.unit}")
    if benchmark not in OFFICIAL_CLUSTERS and clusters is None and runs is None:
        raise UserError(f"{benchmark} has no published number of groups here", "give --clusters or --runs")
    items, groups = OFFICIAL_CLUSTERS.get(benchmark, (clusters or 2, clusters or 2))
    flip, binary, per = span, items == groups or benchmark == "MMB", items / groups
    assumed = f"assumed: equal models differ in {changed:.1%} of the groups, each by one item"
    if runs is not None:
        groups, per, changed, flip, binary = _observed(benchmark, runs)
        assumed = f"as in {runs[0]} against {runs[1]}: {changed:.1%} of the groups would differ between equal models"
    elif not binary:
        flip = span / per
    size = clusters or groups
    return Plan(
        benchmark, composite.name, composite.unit, size, per, changed, flip, assumed,
        detectable_drop(size, changed, flip, binary), drop,
        clusters_needed(drop, changed, flip, binary) if drop else None,
        passing_clusters(drop, changed, flip) if drop else None,
    )  # fmt: skip


def _observed(benchmark: str, runs: tuple[Path, Path]) -> tuple[int, float, float, float, bool]:
    """Groups, items a group, share that changes without a difference, flip size, binary - from two runs."""
    from armor_eval.compare.gate import compare_sources
    from armor_eval.compare.policy import Policy
    from armor_eval.compare.sources import find
    from armor_eval.stats.composite import composites_for
    from armor_eval.stats.paired import compare_sums

    sides = []
    for path in runs:
        found = [s for s in find(path) if s.run.benchmark == benchmark]
        if not found:
            raise UserError(f"{path} holds no run of {benchmark}")
        sides.append(found[0])
    checked = compare_sources(*sides, Policy())
    if not checked.metrics:
        raise UserError(f"{runs[0]} and {runs[1]} cannot be compared: {checked.reasons[0]}")
    composite = next(c for c in composites_for(benchmark) if c.primary)
    sums = [composite.cluster_sums(s.items.values()) for s in sides]
    paired = compare_sums(*sums, composite, resamples=0)
    changed = paired.flips.share_without_difference(paired.clusters)
    return paired.clusters, sums[0].items / paired.clusters, changed, paired.flips.mean_size, paired.binary
