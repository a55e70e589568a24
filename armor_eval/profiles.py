"""Registry of profiles: where a run's data come from, and the defaults and labels that go with them.

`official` is published data. Any other profile is a guest: a package that makes data in the official layouts, with its
own rules to judge them, and registers itself as `PROFILE` in its module `profile`. The core reaches a guest only here.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from types import ModuleType
from typing import get_args

from armor_eval.runs.schema import Profile
from armor_model.base.errors import unknown_name

OFFICIAL: Profile = "official"
EMBEDDED: Profile = "shapes"
"""The profile of the bundled model."""
BUNDLED = "armor-nano"
"""The checkpoint that comes with the package, and the default model."""
NAMES: tuple[Profile, ...] = get_args(Profile)


@dataclass(frozen=True)
class ProfileSpec:
    """What a profile gives. The defaults are the official one's."""

    name: Profile
    label: str = ""
    """Stands behind a benchmark's name wherever a result is printed, with a space before it."""
    title: str = ""
    """Before a table's title."""
    notice: str = ""
    """Said with every table."""
    understanding_batch: int = 16
    """Tiles of 448 pixels fill an accelerator sooner than images of 32."""
    understanding_tokens: int = 4096
    """Longest answer of understanding: InternVL's protocol."""
    response_tokens: int = 512
    """Longest text of a free response."""
    detector: str = "mmdet"
    """GenEval's default detector."""
    vocabulary: str = "geneval"
    """Name of GenEval's vocabulary, as its declaration has it."""
    guest: str | None = None
    """The package of a guest; None = published data."""

    @property
    def interleaved_tokens(self) -> int:
        """Longest text of an answer of several images, each with its text."""
        return 2 * self.response_tokens

    def part(self, name: str) -> ModuleType:
        """A module of the guest, imported when it is needed.

        `understanding` (tsv_path, declared), `judge` (RuleJudge), `geneval` (records), `colors` (PixelColors),
        `detector` (selftest_images), `train_detector`, `modality` (jsonl), `interleaved` (jsonl, NAME, VERSION,
        comparer, CONSTANT, told, shuffled), `suites` (made), `reader` (NAME, read, render), `ablations` (see
        armor_eval.ablations.plan). ValueError for a profile of published data.
        """
        if self.guest is None:
            raise ValueError(f"profile {self.name} is published data: nothing makes its {name}")
        return importlib.import_module(f"{self.guest}.{name}")


GUESTS: dict[Profile, str] = {"shapes": "armor_eval.shapes"}
"""Profile -> the package that registers it."""


def profile_of(name: Profile) -> ProfileSpec:
    """The record of a profile."""
    if name in GUESTS:
        spec: ProfileSpec = importlib.import_module(f"{GUESTS[name]}.profile").PROFILE
        return spec
    return ProfileSpec(OFFICIAL)


def choose_profile(name: str | None, model: str | None) -> ProfileSpec:
    """The profile that is named, else the model's default: the embedded one for the bundled model, official for any
    other. UserError for an unknown name."""
    if name is None:
        return profile_of(EMBEDDED if model in (None, BUNDLED) else OFFICIAL)
    for known in NAMES:
        if name == known:
            return profile_of(known)
    raise unknown_name("profile", name, NAMES)
