"""`python -m trainer` is `armor-train`, so that `accelerate launch -m trainer ...` finds it."""

from trainer.cli import main

raise SystemExit(main())
