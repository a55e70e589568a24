"""Scores as formulas over per-cluster sums, their intervals, paired tests and power: numpy, no torch, no vlmeval."""
