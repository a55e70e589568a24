"""The harness that measures ARMOR: understanding by VLMEvalKit, drawing by GenEval, and what the numbers say."""

__version__ = "0.1.0"
