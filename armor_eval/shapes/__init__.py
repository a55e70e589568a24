"""The embedded profile's data: the shapes world written in the official file formats, and the rules that judge it."""
