"""The harness that measures ARMOR: understanding through VLMEvalKit, drawing through GenEval, and what the numbers allow one to say."""

__version__ = "0.1.0"
