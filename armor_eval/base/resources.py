"""Where the declared data (`benchmarks/`) lies: inside the installed package, or at the top level of a checkout."""

from pathlib import Path


def benchmarks_dir() -> Path:
    """The folder of declared benchmarks, claims and profile data.

    A top-level `benchmarks` package would clash in site-packages, so a wheel carries it as `armor_eval/benchmarks`.
    """
    package = Path(__file__).resolve().parents[1]
    installed = package / "benchmarks"
    return installed if installed.is_dir() else package.parent / "benchmarks"
