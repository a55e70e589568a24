"""The shapes world v1: small images, what can be said and asked about them, and what is held out of training.

Frozen: the bundled checkpoint, the detector and the benchmark data are all built against it.
"""
