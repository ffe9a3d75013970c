"""What a server shares: clients hold what it takes them to hold, and lack nothing for long."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semantic_net.errors import RemoteProtocolError
from semantic_net.federated.shared_model import Announcement, Publisher, SharedModel
from semantic_net.fixed_point import Float32Array
from semantic_net.semantic.codec import Codec
from semantic_net.semantic.schema import ModelSchema, TensorSpec

SCHEMA = ModelSchema(
    (TensorSpec("weight", (40, 10), "parameter"), TensorSpec("mean", (3,), "buffer"))
)
SPARSE = Codec("topk_quantize", topk=0.1)
CODECS = [SPARSE, Codec("entropy_quantize", topk=0.1), Codec("weights_quantize", bit_width=4)]


def values(seed: int) -> Float32Array:
    return np.random.default_rng(seed).standard_normal(SCHEMA.size).astype(np.float32)


def follow(client: SharedModel, publisher: Publisher) -> int:
    """Bring a client to the latest version; return in how many steps."""
    steps = publisher.since(client.version)
    assert steps is not None
    for step in steps:
        client.add(step.codec, memoryview(step.payload))
    assert client.digest == publisher.model.digest
    return len(steps)


def begun() -> tuple[Publisher, SharedModel]:
    publisher, client = Publisher(SCHEMA, values(0)), SharedModel(SCHEMA)
    client.replace(values(0), 0)
    return publisher, client


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.mode)
@settings(max_examples=25)  # it encodes a lot
@given(st.lists(st.booleans(), min_size=1, max_size=6))
def test_a_client_that_comes_now_and_then_holds_what_the_server_takes_it_to(
    codec: Codec, comes: list[bool]
) -> None:
    publisher, client = begun()
    missed = 0
    for number, is_there in enumerate(comes, start=1):
        publisher.publish(values(number), codec)
        missed += 1
        if is_there:
            if publisher.since(client.version) is None:
                client.replace(publisher.model.values, publisher.model.version)
            else:
                assert follow(client, publisher) == missed
            missed = 0
    assert publisher.model.version == len(comes)


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.mode)
def test_what_one_version_leaves_out_is_in_the_next(codec: Codec) -> None:
    publisher, client = begun()
    goal = (values(0) + values(1) / 8).astype(np.float32)
    distances = []
    for _ in range(30):
        publisher.publish(goal, codec)
        follow(client, publisher)
        distances.append(float(np.linalg.norm(client.values - goal)))
    assert distances[-1] < 0.05 * distances[0]


def test_the_whole_model_goes_where_that_is_less() -> None:
    publisher, _ = begun()
    assert publisher.since(None) is None
    assert publisher.since(7) is None, "a version that never was"
    assert publisher.since(0) == []
    publisher.publish(values(1), Codec("none"))
    assert publisher.since(0) is None
    for number in range(60):
        publisher.publish(values(number), SPARSE)
    steps = publisher.since(60)
    assert steps is not None
    assert len(steps) == 1
    assert publisher.since(1) is None, "by now the steps are longer than the model"


def test_what_is_no_step_of_this_model_is_refused() -> None:
    _, client = begun()
    for payload in (b"", b"\x00" * 5, b"\xff" * 100_000):
        with pytest.raises(RemoteProtocolError):
            client.add("topk_quantize", memoryview(payload))
    with pytest.raises(RemoteProtocolError):
        client.add("pickle", memoryview(b"x"))
    assert client.version == 0


@pytest.mark.parametrize("codecs", [None, (), ("none",), ("topk_quantize", "none")])
def test_an_announcement_arrives_as_it_was_made(codecs: tuple[str, ...] | None) -> None:
    said = Announcement(3, 7, "d" * 16, codecs, 2, '{"run": "x"}')
    assert Announcement.read(said.to_config()) == said


@pytest.mark.parametrize(
    "wrong",
    [
        {"version": "7"},
        {"digest": 7},
        {"codecs": 1.5},
        {"facts": b""},
        {"counted": "2"},
        {"round": None},
    ],
)
def test_an_announcement_that_makes_no_sense_is_refused(wrong: dict[str, object]) -> None:
    said = Announcement(3, 7, "d" * 16, ()).to_config()
    with pytest.raises(RemoteProtocolError, match="makes no sense"):
        Announcement.read({**said, **wrong})
    assert Announcement.read({"server_round": 1}) is None, "of another Flower server"
