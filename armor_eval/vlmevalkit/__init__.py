"""VLMEvalKit behind one door: the only package that imports vlmeval."""
