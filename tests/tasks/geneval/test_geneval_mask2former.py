"""GenEval's detector in both forms: same weights, same detections; its post-processing is mmdet's, bit for bit."""

import copy

import numpy as np
import pytest
import torch

from armor_eval.tasks.geneval import mask2former as M
from armor_eval.tasks.geneval.prompts import Metadata
from armor_eval.tasks.geneval.verdicts import Rules, judge
from armor_model.base.errors import UserError

SMALL = M.Architecture(
    embed=24, depths=(1, 1, 2, 1), heads=(1, 2, 3, 6), queries=100, encoder_layers=2, decoder_layers=3, classes=12
)


@pytest.fixture(scope="module")
def forms():
    """mmdet's network with random weights of unit gain, and its conversion."""
    torch.manual_seed(0)
    network = M.build_mmdet(SMALL)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim > 1 and "sampling_offsets" not in name:
                parameter.copy_(torch.randn_like(parameter) * (1 / parameter[0].numel() ** 0.5))
            elif name.endswith("bias"):
                parameter.copy_(torch.randn_like(parameter) * 0.1)
    other = M.build_transformers(SMALL)
    M.load_weights(other, network.state_dict(), "transformers", "test")
    return network, other


CLASSES = [f"class{i}" for i in range(12)]


def meta_of(name, index):
    """A prompt a class, the tasks in turn: counted, single, or right of the next class."""
    include = [{"class": name, "count": 1 + index % 3}]
    tag, exclude = ("counting", [{"class": name, "count": 2 + index % 3}]) if index % 2 else ("single_object", [])
    if index % 3 == 2:
        tag = "position"
        include.append({"class": CLASSES[(index + 1) % 12], "count": 1, "position": ["left of", 0]})
    return Metadata.model_validate({"tag": tag, "include": include, "exclude": exclude, "prompt": name})


def no_color(name, indices):
    raise AssertionError("no prompt here names a colour")


@pytest.fixture(scope="module")
def images():
    """Random blocks and gradients: busy enough for random queries to answer differently."""
    rng = np.random.default_rng(1)
    blocks = rng.integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    return [np.kron(block, np.ones((8, 8, 1), np.uint8)) for block in blocks]


@pytest.fixture(scope="module")
def small_scale():
    """160 instead of 800 pixels: the same code at a twenty-fifth of the cost."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(M, "SCALE", (256, 160))
        yield


def prepared(images):
    """Pixels as the network takes them, and the (height, width) they were resized to."""
    resized = M.resize(images)
    return M.normalise(resized, "cpu"), resized.shape[1:3]


def run(network, form, images, above):
    return detected(M.forward(network, form, prepared(images)[0]), images, above)


def detected(output, images, above):
    pixels, resized = prepared(images)
    size, padded = images[0].shape[:2], tuple(pixels.shape[-2:])
    return [M.detections_of(c, m, padded, resized, size, above) for c, m in zip(*output, strict=True)]


def test_both_forms_agree_on_hundreds_of_detections(forms, images, small_scale):
    """In double precision: the decoder cuts attention masks at .5, where float32 noise can tip a random network."""
    network, other = (copy.deepcopy(form).double() for form in forms)
    pixels = prepared(images)[0].double()
    ours, theirs = M.forward(network, "mmdet", pixels), M.forward(other, "transformers", pixels)
    assert (ours[0] - theirs[0]).abs().max() < 1e-5
    assert (ours[1] - theirs[1]).abs().max() < 1e-5
    everything = np.sort(np.concatenate([found.scores for found in detected(ours, images, 0.0)]))
    above = float(everything[60:62].mean())  # inside the range of scores, so that a tenth does not pass
    middle = float(everything[300:302].mean())
    rules = Rules(threshold=middle, counting_threshold=float(everything[400:402].mean()))
    a, b = detected(ours, images, above), detected(theirs, images, above)
    passed = 0
    verdicts = []
    for left, right in zip(a, b, strict=True):
        assert (left.labels == right.labels).all()
        assert np.abs(left.scores - right.scores).max(initial=0) < 1e-5
        assert (left.masks == right.masks).all()
        passed += len(left.labels)
        for index, name in enumerate(CLASSES):
            found = [
                judge(meta_of(name, index), side.by_class(CLASSES, above), no_color, rules) for side in (left, right)
            ]
            assert found[0] == found[1]
            verdicts.append(found[0].correct)
    assert passed >= 500, passed
    assert 0 < sum(verdicts) < len(verdicts)


def test_post_processing_is_bitwise_mmdets_own(forms, images, small_scale):
    """Against model.test_step on the same pixels, in every score, label, box and mask above the threshold."""
    network, _ = forms
    from mmdet.structures import DetDataSample

    pixels, resized = prepared(images)
    samples = []
    for image in images:
        meta = {
            "img_shape": resized,
            "ori_shape": image.shape[:2],
            "batch_input_shape": tuple(pixels.shape[-2:]),
            "scale_factor": (1.0, 1.0),
        }
        samples.append(DetDataSample(metainfo=meta))
    with torch.inference_mode():
        official = network.predict(pixels, samples, rescale=True)
    dropped = 0
    for sample, ours in zip(official, run(network, "mmdet", images, 0.15), strict=True):
        theirs = sample.pred_instances.numpy()
        passing = theirs.scores > 0.15
        order = np.argsort(-theirs.scores[passing], kind="stable")
        assert (theirs.scores[passing][order] == ours.scores).all()
        assert (theirs.labels[passing][order] == ours.labels).all()
        assert (theirs.bboxes[passing][order] == ours.boxes).all()
        assert (theirs.masks[passing][order] == ours.masks).all()
        dropped += int((~passing).sum())
    assert dropped > 50


def test_batched_is_single(forms, images, small_scale):
    network, _ = forms
    batched = run(network, "mmdet", images[:2], 0.14)
    for i in range(2):
        (single,) = run(network, "mmdet", images[i : i + 1], 0.14)
        assert (single.labels == batched[i].labels).all()
        assert np.abs(single.scores - batched[i].scores).max() < 1e-5


def test_names_of_mmdet_2_are_understood(forms):
    network, _ = forms
    state = network.state_dict()
    old = {}
    for name, value in state.items():
        if "pixel_decoder.encoder.layers" in name:
            name = name.replace(".self_attn.", ".attentions.0.").replace(".ffn.", ".ffns.0.")
        if "transformer_decoder.layers" in name:
            name = name.replace(".cross_attn.", ".attentions.0.").replace(".self_attn.", ".attentions.1.")
            name = name.replace(".ffn.", ".ffns.0.")
        old[name] = value
    assert set(old) != set(state)
    assert set(M.to_version_3(old)) == set(state) == set(M.to_version_3(state))


def test_another_architecture_is_refused(forms, tmp_path):
    network, _ = forms
    state = network.state_dict()
    state.pop("panoptic_head.query_feat.weight")
    with pytest.raises(UserError, match="1 parameters missing"):
        M.load_weights(M.build_mmdet(SMALL), state, "mmdet", "x.pth")
    path = tmp_path / "x.pth"
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(UserError, match=r"x\.pth"):
        M.read_state(path)


def test_pixels_reach_the_network_as_mmdet_would_send_them(forms, small_scale):
    """mmdet's own pipeline on the BGR array, uint8 resize, against ours on RGB: the same tensor."""
    from mmcv.transforms import Compose
    from mmengine.dataset import pseudo_collate

    network, _ = forms
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    steps = [
        {"type": "mmdet.LoadImageFromNDArray"},
        {"type": "mmdet.Resize", "scale": M.SCALE, "keep_ratio": True},
        {"type": "mmdet.PackDetInputs", "meta_keys": ("ori_shape", "img_shape", "scale_factor")},
    ]
    data = pseudo_collate([Compose(steps)({"img": image[..., ::-1].copy(), "img_id": 0})])
    theirs = network.data_preprocessor(data)["inputs"]
    ours, resized = prepared([image])
    assert torch.equal(theirs, ours) and resized == (160, 240)
