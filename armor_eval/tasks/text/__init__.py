"""Text kept: lm-evaluation-harness runs its tasks, ARMOR is registered in it, and its results become bundles."""
