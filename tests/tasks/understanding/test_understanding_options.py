"""`--model-args`, and that no option is swallowed by a model that cannot honour it."""

import pytest

from armor_eval.models import registry
from armor_eval.models.options import honoured, parse_model_args, refuse_unknown
from armor_model.base.errors import UserError


@pytest.mark.parametrize(
    "text, value",
    [
        ("7", 7),
        ("-3", -3),
        ("0.5", 0.5),
        ("1e-6", 1e-6),
        ("true", True),
        ("False", False),
        ("none", None),
        ("sdpa", "sdpa"),
        ("", ""),
        ("007", "007"),
        ("nan", "nan"),
        ('"7"', "7"),
        ("a=b", "a=b"),
        ('{"a": [1, 2], "b": "x,y"}', {"a": [1, 2], "b": "x,y"}),
        ('["a,]", 1]', ["a,]", 1]),
        (r'"a\",b"', 'a",b'),
    ],
)
def test_a_value_is_what_it_looks_like(text, value):
    parsed = parse_model_args(f"first=1, key={text},last=x")
    assert parsed == {"first": 1, "key": value, "last": "x"} and type(parsed["key"]) is type(value)


def test_a_commit_is_text():
    assert parse_model_args("revision=12345678") == {"revision": "12345678"}
    assert parse_model_args("revision=1e12345,variant=16") == {"revision": "1e12345", "variant": "16"}
    assert parse_model_args(None) == parse_model_args("") == {}


@pytest.mark.parametrize("text", ["a", "=1", "a=1,,b=2", "a=1,a=2", "a b=1", "a={", 'a="x', "a=1,"])
def test_what_is_no_pair_is_one_line(text):
    with pytest.raises(UserError, match="--model-args"):
        parse_model_args(text)


def test_an_unknown_argument_names_what_is_near():
    with pytest.raises(UserError, match=r"hf: knows no model argument 'max_pixel' \(did you mean max_pixels"):
        refuse_unknown("hf:", {"max_pixel": 1}, ["max_pixels", "revision"])


def test_an_option_that_a_loader_does_not_name_is_refused():
    def loader(rest, *, device=None, **others):
        return rest

    assert honoured(loader, "m", {"device": "cpu", "dtype": None, "trust_remote_code": False, "model_args": {}}) == {
        "device": "cpu"
    }
    with pytest.raises(UserError, match="m takes no --model-args"):
        honoured(loader, "m", {"model_args": {"a": 1}})
    with pytest.raises(UserError, match="--model mock takes no --dtype"):
        registry.load("mock", "shapes", dtype="float16")


def test_a_process_own_device_reaches_only_models_that_compute_here():
    assert registry.load("mock", "shapes", own_device="cuda:3").info.name == "mock"
