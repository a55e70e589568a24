"""ARMOR: an InternVL that answers in text, images, or both."""
