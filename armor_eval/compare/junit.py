"""The comparison as JUnit XML: a test case per benchmark and number, as CI systems list them.

A regression is a failure, an inconclusive number is skipped (a failure with --strict), incomplete or not comparable is
an error.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

from armor_eval.compare import text
from armor_eval.compare.record import BenchmarkResult, Comparison, MetricResult, Verdict
from armor_model.base.text import visible

_FORBIDDEN = re.compile("[^\\t\\n\\r\\u0020-\\ud7ff\\ue000-\\ufffd\\U00010000-\\U0010ffff]")
"""Characters that XML 1.0 cannot hold, even escaped."""


def clean(value: object) -> str:
    return _FORBIDDEN.sub("?", visible(str(value)))


def render(comparison: Comparison) -> str:
    suite = ElementTree.Element("testsuite", name="armor-eval compare")
    for b in comparison.benchmarks:
        where = f"{b.benchmark} ({b.profile})"
        if not b.metrics:
            _case(suite, where, "comparison", b.verdict, "; ".join(b.reasons), "", comparison.strict)
        for m in b.metrics:
            _case(suite, where, m.name, m.verdict or "PASS", m.reason, _facts(b, m), comparison.strict)
        for c in b.checks:
            _case(suite, where, c.name, c.verdict, c.reason, c.reason, comparison.strict)
    for name, tags in {"failures": "failure", "errors": "error", "skipped": "skipped"}.items():
        suite.set(name, str(len(suite.findall(f"testcase/{tags}"))))
    suite.set("tests", str(len(suite)))
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _case(
    suite: ElementTree.Element, where: str, name: str, verdict: Verdict, reason: str, facts: str, strict: bool
) -> None:
    case = ElementTree.SubElement(suite, "testcase", classname=clean(where), name=clean(name), time="0")
    if verdict != "PASS":
        tag = "failure" if verdict == "REGRESSION" else "error"
        if verdict == "INCONCLUSIVE":
            tag = "failure" if strict else "skipped"
        ElementTree.SubElement(case, tag, message=clean(f"{verdict}: {reason}")).text = clean(facts)
    if facts:
        ElementTree.SubElement(case, "system-out").text = clean(facts)


def _facts(b: BenchmarkResult, m: MetricResult) -> str:
    gate = "primary" if m.primary else "does not gate"
    changed = f"{len(b.flips)} items changed" if b.base else f"{m.losses + m.wins} clusters changed"
    return (
        f"{m.name} ({gate}): base {text.plain(m.base, m.unit, False)}, candidate "
        f"{text.plain(m.candidate, m.unit, False)}, difference {text.plain(m.delta, m.unit)} "
        f"[{text.bounds(m.ci95, m.unit)}], {m.test}, p {text.p_value(m.p)}, tolerance "
        f"{text.plain(m.tolerance, m.unit, False)}, would see {text.mde(m)}, {m.n} items in {m.clusters} clusters, "
        + "; ".join([changed, *text.reserved(b)])
    )
