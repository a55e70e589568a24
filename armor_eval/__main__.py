"""`python -m armor_eval ...` is `armor-eval ...`, which is what `accelerate launch -m armor_eval` needs."""

from armor_eval.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
