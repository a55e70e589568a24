"""What a type cannot say: that an optional value is there."""

from typing import TypeVar

T = TypeVar("T")


def not_none(value: T | None) -> T:
    """The value, where the code before has made sure that there is one. AssertionError: it had not, our defect."""
    if value is None:
        raise AssertionError("a value that must be there is None")
    return value
