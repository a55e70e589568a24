"""Trains ARMOR: the three WoHG stages as data, and the shapes world they can be proven on."""
