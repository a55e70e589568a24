"""GenEval's verdict once more, written from the published definition alone and sharing no code with the product.

Numpy throughout, the rules spelled as one function; used only to be compared with.
"""

import numpy as np


def relation_set(a, b):
    a, b = np.asarray(a[:4], float), np.asarray(b[:4], float)
    centre_a, centre_b = (a[:2] + a[2:]) / 2, (b[:2] + b[2:]) / 2
    size = np.abs(a[2:] - a[:2]) + np.abs(b[2:] - b[:2])
    o = centre_a - centre_b
    r = np.maximum(np.abs(o) - 0.1 * size, 0) * np.sign(o)
    if (np.abs(r) < 1e-3).all():
        return set()
    dx, dy = r / np.linalg.norm(o)
    out = set()
    if dx < -0.5:
        out.add("left of")
    if dx > 0.5:
        out.add("right of")
    if dy < -0.5:
        out.add("above")
    if dy > 0.5:
        out.add("below")
    return out


def reference_verdict(metadata, detections, colors):
    threshold = 0.9 if metadata["tag"] == "counting" else 0.3
    kept = {}
    for name, boxes in detections.items():
        pairs = list(zip(boxes, colors.get(name, [None] * len(boxes)), strict=True))
        kept[name] = [pair for pair in pairs if pair[0][4] > threshold][:16]
    right, matched = True, []
    for need in metadata["include"]:
        have = kept.get(need["class"], [])[: need["count"]]
        ok = len(have) == need["count"]
        if ok and "color" in need:
            ok = sum(color == need["color"] for _, color in have) >= need["count"]
        if ok and "position" in need:
            word, index = need["position"]
            others = matched[index]
            ok = others is not None and all(word in relation_set(a, b) for a, _ in have for b, _ in others)
        matched.append(have if ok else None)
        right = right and ok
    for ban in metadata.get("exclude", []):
        if len(kept.get(ban["class"], [])) >= ban["count"]:
            right = False
    return right
