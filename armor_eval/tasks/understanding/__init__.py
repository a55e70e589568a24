"""Understanding benchmarks: VLMEvalKit's data and scoring rules, our inference, and no number that was not measured."""
