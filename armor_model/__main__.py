"""`python -m armor_model`: the same as `armor-model`."""

import sys

from armor_model.cli import main

sys.exit(main())
