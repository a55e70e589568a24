"""Does a model answer with text, a picture or both, as it was asked to? The aim of the paper's stage 1."""
