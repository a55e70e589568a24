"""The `shapes` profile: the defaults and labels of the embedded world (armor_eval.profiles imports this when asked)."""

from armor_eval.profiles import ProfileSpec

PROFILE = ProfileSpec(
    name="shapes",
    label=" (shapes)",
    title="Shapes: ",
    notice="Measured on our synthetic shapes world (profile shapes): no official benchmark, never to be set beside "
    "one.",
    understanding_batch=64,
    understanding_tokens=64,
    response_tokens=64,
    detector="embedded",
    vocabulary="shapes-geneval",
    guest="armor_eval.shapes",
)
