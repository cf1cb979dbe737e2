"""How many examples the tests in tests/unit/fuzz try, and the junk values that they use.

By default they try the same few histories every time, which takes seconds. ``FUZZ=long`` tries
fifty times as many, different ones each time; a number tries that many times as many.
"""

from __future__ import annotations

import os
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

LONG = 50


def _times() -> int:
    wanted = os.environ.get("FUZZ", "1")
    return LONG if wanted == "long" else int(wanted)


def fuzzed(examples: int, steps: int = 30) -> settings:
    """The settings of a test: ``examples`` histories, of ``steps`` steps where it has steps."""
    times = _times()
    return settings(
        max_examples=examples * times,
        stateful_step_count=steps,
        deadline=None,
        derandomize=times == 1,
        database=None,
        print_blob=times > 1,
        suppress_health_check=[
            HealthCheck.too_slow,
            HealthCheck.data_too_large,
            HealthCheck.filter_too_much,
            HealthCheck.function_scoped_fixture,
        ],
    )


TOKEN = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ6dXVsIn0.c2lnbmF0dXJlLW9mLXRoZS10b2tlbg"
"""A token as a service account has it."""

texts = st.text(max_size=6)


def _odd(name: str) -> Any:
    # By names: a strategy that failed is printed, and these are long.
    kind, _, depth = name.partition(" ")
    if kind == "nested":
        value: Any = "bottom"
        for level in range(int(depth)):
            value = [value] if level % 2 else {"a": value}
        return value
    return {"digits": "9" * 5000, "large": 10**400, "small": -(10**400)}[kind]


any_texts = st.one_of(
    texts,
    # Half of a surrogate pair is not a character, but JSON can express it and Python reads it.
    st.sampled_from(["\ud800", "a\udfff", "\x00", "\u202e", "a/b", "%2F", "..", "²"]),
    st.sampled_from(["digits"]).map(_odd),
)
numbers: st.SearchStrategy[Any] = st.one_of(
    st.integers(-5, 100),
    st.floats(),
    st.sampled_from([2**63, -(2**63), 1e308, 0.1, -1]),
    st.sampled_from(["large", "small"]).map(_odd),
)
scalars = st.none() | st.booleans() | numbers | any_texts
_values: st.SearchStrategy[Any] = st.one_of(
    scalars,
    st.recursive(
        scalars,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
        max_leaves=6,
    ),
    st.sampled_from(["nested 90", "nested 300", "nested 700"]).map(_odd),
)


@st.composite
def _any_value(draw: st.DrawFn) -> Any:
    # Printed by its name in strategies that use it, not with all its parts.
    return draw(_values)


values: st.SearchStrategy[Any] = _any_value()
"""Any value that JSON can express and Python's parser reads."""
