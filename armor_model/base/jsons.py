"""The types of a JSON object, written once: values are checked where they are read."""

from collections.abc import Mapping
from typing import Any

JsonObject = dict[str, Any]
"""An object of a JSON or TOML file, a row of a table, named settings of a library: names to values of any kind."""

JsonView = Mapping[str, Any]
"""The same, only read."""
