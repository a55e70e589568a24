"""The run bundle: what a measuring command writes, and the only thing that tables, plots and comparisons read."""
