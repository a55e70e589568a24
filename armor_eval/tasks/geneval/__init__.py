"""GenEval: images drawn or given, objects detected, verdicts by the published rules."""
