"""Where the repository and the material shared beside it lie; tests that need the latter skip without it."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared"
HELPERS = Path(__file__).resolve().parent
