"""Small models with weights large enough that logits differ clearly, and conversations of every kind."""

import pytest


@pytest.fixture(scope="session")
def words():
    line = "what is there ? . , a red circle the image draw picture of and not it"
    return line.split()


@pytest.fixture(scope="session")
def tokenizer(words):
    from armor_model import build_word_tokenizer

    return build_word_tokenizer(words)


@pytest.fixture(scope="session")
def make_model(tokenizer):
    """A tiny ARMOR with its own processor; `make_model(heads="single", ...)`."""
    from armor_model import ArmorForConditionalGeneration, ArmorProcessor, preset

    def make(seed=0, **settings):
        from tests_model_helpers import spread

        config = preset("tiny", vocab_size=len(tokenizer), **settings)
        model = spread(ArmorForConditionalGeneration(config), seed)
        return model, ArmorProcessor.for_config(tokenizer, config)

    return make


@pytest.fixture(scope="session")
def pair(make_model):
    return make_model()


@pytest.fixture(scope="session")
def conversations():
    from PIL import Image

    red = Image.new("RGB", (40, 30), "red")
    return [
        [{"role": "user", "content": "draw a red circle"}],
        [{"role": "user", "content": [{"type": "image", "image": red}, {"type": "text", "text": "what is there ?"}]}],
        [{"role": "user", "content": "what is it and draw a picture of it . it is not red and not a circle"}],
    ]


@pytest.fixture(scope="session")
def talker(make_model):
    """A model that often begins pictures: its <imgbos> row points along the mean hidden state."""
    model, processor = make_model(seed=5)
    batch = processor.encode([[{"role": "user", "content": "draw a red circle"}]], add_generation_prompt=True)
    import torch

    with torch.no_grad():
        hidden = model.model.language_model.norm(model.backbone(model.embed(batch["input_ids"])))
        model.imgbos_head.weight.copy_(hidden[0, -6:].mean(0, keepdim=True) * 0.12)
    return model, processor
