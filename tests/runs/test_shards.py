"""Shards of a run, joined, are the run: same items, same scores; what is not whole is refused."""

from pathlib import Path

import pytest

from armor_eval.cli import main
from armor_eval.runs.bundle import read_bundle
from armor_eval.runs.merge import merge, parse_shard
from armor_model.base.errors import UserError

ARGV = ["modality", "--model", "mock", "--profile", "shapes", "--limit", "4", "--batch-size", "3"]


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("shards")
    for i in (1, 2, 3):
        assert main([*ARGV, "--shard", f"{i}/3", "--out", str(folder / f"s{i}")]) == 0
    return [folder / f"s{i}" for i in (1, 2, 3)]


def test_joined_shards_equal_the_undivided_run(shards: list[Path], tmp_path: Path, capsys) -> None:
    assert main([*ARGV, "--out", str(tmp_path / "whole")]) == 0
    assert main(["merge", *map(str, reversed(shards)), "--out", str(tmp_path / "joined")]) == 0
    (whole, items, scores), (joined, theirs, their_scores) = (
        read_bundle(tmp_path / n / "modality") for n in ("whole", "joined")
    )
    kept = [[i.model_dump(exclude={"seconds"}) for i in one] for one in (items, theirs)]
    assert kept[0] == kept[1] and scores == their_scores and joined.status == "complete"
    assert joined.extras == whole.extras and "--shard" not in joined.command
    for item in theirs:
        assert all(
            (tmp_path / "joined" / "modality" / image).is_file() for image in [*item.images, *item.output_images]
        )


def test_what_is_not_whole_is_refused_in_one_line(shards: list[Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="shards missing of 3: 2"):
        merge([shards[0], shards[2]], tmp_path / "a")
    (tmp_path / "modality").mkdir()
    (tmp_path / "modality" / "mine").touch()
    with pytest.raises(UserError, match="not empty"):
        merge(shards, tmp_path)
    assert main([*ARGV, "--shard", "1/3", "--seed", "5", "--out", str(tmp_path / "other")]) == 0
    with pytest.raises(UserError, match=r"another run than .*: subset"):
        merge([shards[1], tmp_path / "other"], tmp_path / "b")
    assert not (tmp_path / "a").exists() and not (tmp_path / "b").exists()


@pytest.mark.parametrize("text", ["0/2", "3/2", "2", "a/b", "1/0", "-1/2"])
def test_a_shard_is_a_part_of_a_whole(text: str) -> None:
    with pytest.raises(UserError, match="no part of a whole"):
        parse_shard(text)
