"""Any bytes from a stranger are read, or refused as documented; `make fuzz` tries many more."""

from __future__ import annotations

import pytest
from fuzz_targets import TARGETS
from hypothesis import given, settings
from hypothesis import strategies as st


@pytest.mark.parametrize("name", TARGETS)
def test_an_example_is_accepted(name: str) -> None:
    examples = TARGETS[name].examples()
    assert any(TARGETS[name](example) for example in examples)


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=60)
@given(data=st.data())
def test_any_bytes_are_accepted_or_refused_as_documented(name: str, data: st.DataObject) -> None:
    target = TARGETS[name]
    target(data.draw(st.binary(max_size=400)))
    altered = bytearray(data.draw(st.sampled_from(target.examples())))
    changes = st.tuples(st.integers(0, len(altered) - 1), st.integers(0, 255))
    for place, value in data.draw(st.lists(changes, min_size=1, max_size=4)):
        altered[place] = value
    cut = data.draw(st.sampled_from((0, 0, 1, 7)))
    target(bytes(altered[: len(altered) - cut]))


FOUND = [("snapshot", bytes.fromhex("0000c07f") * 10)]
"""What the fuzzer has found: an origin on disk of which entries are not a number."""


@pytest.mark.parametrize(("name", "data"), FOUND)
def test_what_was_found_once_is_refused(name: str, data: bytes) -> None:
    assert not TARGETS[name](data)
