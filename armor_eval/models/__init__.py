"""Adapters: what the harness asks of a model, and the models that can answer."""
