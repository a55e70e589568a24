"""Makes the area's helper module importable and gives every test data and folders of its own."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory) -> Path:
    """An untrained ARMOR of the `tiny` preset that knows the words of the test data."""
    import torch
    from harness_data import WORDS

    from armor_model import ArmorForConditionalGeneration, ArmorProcessor, build_word_tokenizer, preset, save

    words = (
        "what",
        "is",
        "shape",
        "look",
        "closely",
        "answer",
        "with",
        "the",
        "option",
        "letter",
        "directly",
        "yes",
        "no",
    )
    tokenizer = build_word_tokenizer([*words, *WORDS, *".,:?'()", *"0123456789"])
    config = preset("tiny", vocab_size=len(tokenizer))
    torch.manual_seed(0)
    model = ArmorForConditionalGeneration(config).eval()
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    save(model, ArmorProcessor.for_config(tokenizer, config), folder)
    return folder


@pytest.fixture(scope="session")
def tsv_folder(tmp_path_factory) -> Path:
    from harness_data import write_all

    return write_all(tmp_path_factory.mktemp("tsv"))
