"""Text-to-image suites as data: items with probes, a judge of a known kind, and a reduction of its readings to scores.

A suite is one file of `benchmarks/suites` (declare.py) and a loader of its published file; the engine runs all of them
through one task (task.py).
"""
