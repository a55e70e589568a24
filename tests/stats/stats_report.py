"""The simulation's tables as Markdown: every simulated share with its own 95 % interval, exact ones marked."""

from __future__ import annotations

from armor_model.base.statistics import wilson

EXACT = "exact"


def share(row: dict, name: str) -> str:
    """`2.4 (2.1-2.7)` in percent; exact shares stand alone."""
    value, trials = row[name], row["trials"]
    if trials is None:
        return f"{100 * value:.2f}"
    low, high = wilson(value, trials)
    again = "*" if row.get("again") else ""
    return f"{100 * value:.1f}{again} ({100 * low:.1f}-{100 * high:.1f})"


def table(head: list[str], rows: list[list[str]], text_columns: int = 1) -> list[str]:
    marks = "|".join(["---"] * text_columns + ["--:"] * (len(head) - text_columns))
    return [f"| {' | '.join(head)} |", f"|{marks}|", *(f"| {' | '.join(row)} |" for row in rows), ""]


def markdown(found: dict) -> str:
    lines = [
        "# Error rates of the comparison, simulated",
        "",
        f"Seed {found['seed']}, {found['trials']:,} trials a row (power and outside the regime: half). Made by "
        "`python tests/stats/stats_simulation.py`; the functions are the product's own. In percent; in brackets the "
        "simulation's own 95 % interval; * = the first estimate was out of its band (power, coverage) or above its "
        "nominal rate by more than 1.5 simulation errors, and was replaced by a fresh one of four times the trials. "
        "Rows without brackets are exact: one 0/1 outcome a cluster, summed over all tables of losses and wins.",
        "",
        "## No true difference",
        "",
        "`REGRESSION`: falsely, by the gate's rule at tolerance 0 (nominal 2.5 or below; a tolerance only lowers it). "
        "`upper < 0`, `lower > 0`: the interval alone (2.5). `test`: two-sided rejections (5; McNemar: below).",
        "",
    ]
    lines += table(
        ["score", "clusters", "clusters changed", "REGRESSION", "upper < 0", "lower > 0", "test"],
        [
            [
                r["score"],
                str(r["clusters"]),
                f"{r['changed_clusters']:.0f}",
                share(r, "regression"),
                share(r, "upper_below_truth"),
                share(r, "lower_above_truth"),
                share(r, "rejects"),
            ]
            for r in found["null"]
        ],
    )
    lines += ["## True drop equal to the tolerance", ""]
    lines += ["`false PASS`: the lower bound is above the truth (nominal 2.5 or below).", ""]
    lines += table(
        ["score", "clusters", "clusters changed", "true drop", "false PASS", "upper < truth"],
        [
            [
                r["score"],
                str(r["clusters"]),
                f"{r['changed_clusters']:.0f}",
                f"{-r['true_difference']:.3g}",
                share(r, "lower_above_truth"),
                share(r, "upper_below_truth"),
            ]
            for r in found["drop"]
        ],
    )
    lines += ["## Power at the printed minimal detectable effect (nominal 80)", ""]
    lines += ["The true drop is the printed one and comes in changes like those observed.", ""]
    lines += table(
        ["score", "printed", "power"], [[r["score"], f"{r['printed']:.3g}", share(r, "power")] for r in found["power"]]
    )
    lines += ["## Coverage of a single run's 95 % interval (nominal 93.5-96.5)", ""]
    lines += ["By the true score, as a share of the way from a run that is always wrong to a faultless one.", ""]
    lines += _coverage(found["coverage"])
    lines += ["## The same outside the regime: under 100 clusters, or a score near the ends of its range", ""]
    return "\n".join(lines + _coverage(found["outside"])).rstrip() + "\n"


def _coverage(rows: list[dict]) -> list[str]:
    columns = sorted({(r["clusters"], r["share"]) for r in rows})
    cells = {(r["score"], r["clusters"], r["share"]): r for r in rows}
    made = []
    for name in dict.fromkeys(r["score"] for r in rows):
        line = [name]
        for clusters, at in columns:
            row = cells.get((name, clusters, at))
            undefined = f", {100 * row['undefined']:.1f} n/a" if row and row["undefined"] else ""
            line.append(share(row, "covered") + undefined if row else "-")
        made.append(line)
    return table(["score", *(f"{c} clusters, {at:g}" for c, at in columns)], made)
