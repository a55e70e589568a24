"""The regression gate: two runs of the same items, a verdict with its error bars, and an exit code."""
