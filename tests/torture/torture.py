"""Torture: kills and faults at seeded random times; what is left, resumed, must equal the undisturbed run.

python tests/torture/torture.py --kills 50 --faults 20 [--only understanding,stage] [--out reports/torture]

Children are forked from this process, which has imported what the commands import, so that a kill costs a run and not
an import. Every event is checked: nothing that a child had on the disk is lost, double or invented, no child prints a
traceback, one that fails prints one line, and the resumed run ends as the undisturbed one did. The table goes to
`torture.json` and `torture.md` after every event: a torture that is cut short has shown what it reached.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1")
HERE = Path(__file__).resolve().parent
sys.path += [str(HERE.parents[1]), str(HERE.parent / "helpers")]

from torture_core import WRONG, Row, Target, Torture  # noqa: E402
from torture_events import EVENTS, kill  # noqa: E402


def torture(
    targets: Sequence[Target],
    root: Path,
    kills: int,
    faults: int,
    seed: int = 0,
    report: Callable[[list[Row]], None] = lambda rows: None,
    events: Sequence[str] = (),
) -> list[Row]:
    """Every command in turn: `kills` kills and about `faults` faults of each kind's share. Returns the table."""
    rows: list[Row] = []
    chosen = [event for event in EVENTS if not events or event in events]
    for target in targets:
        one = Torture(target, root, seed)
        rows.append(Row(target.name, f"undisturbed ({one.seconds:.1f} s)", 1))
        if kills:
            kill(one, kills)
            report(rows + one.rows)
        each = -(-faults // len(chosen))
        for event in chosen if faults else ():
            EVENTS[event](one, each)
            report(rows + one.rows)
        rows += [row for row in one.rows if row.n]
        report(rows)
    return rows


def table(rows: Sequence[Row]) -> str:
    """The table as Markdown."""
    head = ["command", "event", "n", "too late", *WRONG]
    lines = [head, ["---"] * len(head)]
    lines += [[r.command, r.event, str(r.n), str(r.finished), *(str(r.wrong[w]) for w in WRONG)] for r in rows if r.n]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main() -> int:
    from torture_targets import TARGETS, make_targets

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--faults", type=int, default=8, help="of all kinds together, a command")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default=",".join(TARGETS))
    parser.add_argument("--events", default="", help=f"of {', '.join(EVENTS)}")
    parser.add_argument("--work", type=Path, default=Path("runs/torture"))
    parser.add_argument("--out", type=Path, default=Path("runs/torture"))
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)

    def report(rows: list[Row]) -> None:
        (asked.out / "torture.md").write_text(table(rows))
        record = [vars(row) | {"wrong": dict(row.wrong)} for row in rows if row.n]
        (asked.out / "torture.json").write_text(json.dumps(record, indent=1) + "\n")

    targets = make_targets(asked.work.resolve(), asked.only.split(","))
    events = [event for event in asked.events.split(",") if event]
    rows = torture(targets, asked.work.resolve(), asked.kills, asked.faults, asked.seed, report, events)
    sys.stdout.write(table(rows))
    return int(any(row.wrong for row in rows))


if __name__ == "__main__":
    sys.exit(main())
