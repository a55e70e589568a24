"""Named baselines: a run reduced to what a comparison needs, small enough for git.

A baseline is a folder of bundles without images and prompts; answers are cut (their hash is kept), so that every
reader of bundles reads it too. A `policy.toml` beside them is used by `compare`.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from pathlib import Path

from armor_eval.compare.policy import example, load_policy, tolerances
from armor_eval.compare.sources import Source, find, unusable
from armor_eval.runs.bundle import find_runs
from armor_eval.runs.journal import write_run
from armor_eval.runs.schema import Item
from armor_model.base.errors import UserError, did_you_mean
from armor_model.base.files import write_file
from armor_model.base.optional import not_none

SCORE_EXTRAS = ("split", "pair", "figure", "question", "answer", "extracted", "reference_score")
"""What composite scores read of an item's extras (armor_eval.stats.composite)."""
OUTPUT_KEPT = 120
"""Characters of an answer; the hash tells whether it changed."""
HASH_KEPT = 16
POLICY = "policy.toml"


def folder_of(name: str, root: Path) -> Path:
    """Where a name's baseline lies. Raises UserError for a name that is not a plain one."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise UserError(f"{name!r} cannot name a baseline", "use letters, digits, dots, dashes and underscores")
    return root / name


def names(root: Path) -> list[str]:
    return sorted(p.name for p in root.iterdir() if find_runs(p)) if root.is_dir() else []


def resolve(name: str, root: Path) -> tuple[Path, Path | None]:
    """A run folder or a baseline's name -> (folder, its policy file or None). Raises UserError."""
    path = Path(name)
    if not path.exists() and "/" not in name and (root / name).is_dir():
        path = root / name
    if not path.exists():
        known = names(root)
        hint = f"saved baselines in {root}: {', '.join(known)}" if known else f"no baselines in {root}"
        raise UserError(f"no such run or baseline: {name}{did_you_mean(name, known)}", hint)
    policy = path / POLICY
    return path, policy if policy.is_file() else None


def save(name: str, run: Path, root: Path, policy: Path | None, force: bool) -> tuple[Path, list[Source]]:
    """Write a baseline of all complete runs at or below a folder. Raises UserError where one is not complete."""
    target = folder_of(name, root)
    if target.exists() and not force:
        raise UserError(f"{target} exists", "--force replaces it")
    sources = find(run)
    for source in sources:
        why = unusable(source, source.run.benchmark)
        if why:
            raise UserError(f"{source.path}: {why}: only complete runs become a baseline")
    load_policy(policy)
    root.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=root))
    try:
        for source in sources:
            _write(source, fresh / _folder_name(source))
        text = policy.read_text(encoding="utf-8") if policy else example(tolerances(sources))
        if policy is None and (target / POLICY).is_file():
            text = (target / POLICY).read_text(encoding="utf-8")
        write_file(fresh / POLICY, text)
        fresh.chmod(0o755)
        if target.exists():
            shutil.rmtree(target)
        fresh.rename(target)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    return target, sources


def _folder_name(source: Source) -> str:
    return source.run.benchmark if source.run.profile == "official" else f"{source.run.benchmark}-{source.run.profile}"


def _write(source: Source, folder: Path) -> None:
    folder.mkdir()
    # A command line may hold paths of the machine it ran on, which do not belong into a repository.
    command = [Path(part).name if "/" in part else part for part in source.run.command]
    run = source.run.model_copy(update={"command": command, "packages": {}})
    lines = (slim(item).model_dump_json(exclude_defaults=True) for item in source.items.values())
    write_file(folder / "items.jsonl", "\n".join(lines) + "\n")
    write_file(folder / "scores.json", not_none(source.scores).model_dump_json(indent=1) + "\n")
    write_run(folder, run, seal=True)


def slim(item: Item) -> Item:
    """The item as a baseline keeps it."""
    extras = {k: v for k, v in item.extras.items() if k in SCORE_EXTRAS}
    output = item.output
    if output is not None and len(output) > OUTPUT_KEPT:
        extras["output_sha256"] = hashlib.sha256(output.encode("utf-8", "surrogatepass")).hexdigest()
        output = output[:OUTPUT_KEPT]
    if output is not None:
        output = output.encode("utf-8", "replace").decode("utf-8")
    return item.model_copy(
        update={
            "prompt": "",
            "prompt_sha256": item.prompt_sha256[:HASH_KEPT],
            "images": [],
            "output": output,
            "extras": extras,
            "reason": None,
            "seconds": 0.0,
        }
    )
