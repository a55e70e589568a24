"""Training data: read published sets, screen them, build conversations, turn pictures into codes once."""
