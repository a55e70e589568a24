"""Training data: read published sets, screen them, build conversations, turn images into codes once."""
