"""Scoring families by name: what a benchmark's TOML chooses from."""

from armor_eval.tasks.families.base import Family
from armor_eval.tasks.families.choice import Blink, Choice, Circular, Mmmu
from armor_eval.tasks.families.extracted import Extracted
from armor_eval.tasks.families.free import Graded, Ratio
from armor_eval.tasks.families.mme import Mme, MmePerception
from armor_eval.tasks.families.short import Contained, Relaxed
from armor_eval.tasks.families.yes_no import Hallusion, Pope, YesNo

_ALL = (
    Circular,
    Choice,
    Blink,
    Mmmu,
    YesNo,
    Pope,
    Mme,
    MmePerception,
    Hallusion,
    Graded,
    Ratio,
    Relaxed,
    Contained,
    Extracted,
)
FAMILIES: dict[str, Family] = {family.name: family() for family in _ALL}
