"""Sub-seeds: one seed of a run becomes one for each thing in it, independent of order, batch and process."""

from __future__ import annotations

import hashlib


def sub_seed(*parts: object, bits: int = 32) -> int:
    """The leading `bits` (at most 256) of sha256 over the parts' texts, joined by colons: `sub_seed(seed, "MMB", 17)`.

    Frozen: committed runs were drawn with it.
    """
    digest = hashlib.sha256(":".join(map(str, parts)).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest, "big") >> (256 - bits)
