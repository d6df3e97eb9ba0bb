"""Knows what the operators and the tests (`is …`) of a template mean: closed lists of functions of
plain data; must not know how a template is read.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, Final

ARITHMETIC: Final[dict[str, Callable[[int, int], int]]] = {
    "Sub": operator.sub,
    "Mul": operator.mul,
    "FloorDiv": operator.floordiv,
    "Mod": operator.mod,
}
COMPARISONS: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "lteq": operator.le,
    "gt": operator.gt,
    "gteq": operator.ge,
    "in": lambda a, b: a in b,
    "notin": lambda a, b: a not in b,
}
TESTS: Final[dict[str, Callable[[Any], bool]]] = {
    "none": lambda v: v is None,
    "string": lambda v: isinstance(v, str),
    "number": lambda v: type(v) is int,
    "boolean": lambda v: isinstance(v, bool),
    "mapping": lambda v: isinstance(v, dict),
    "sequence": lambda v: isinstance(v, list),
    "true": lambda v: v is True,
    "false": lambda v: v is False,
}
