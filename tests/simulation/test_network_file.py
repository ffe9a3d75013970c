"""A network file means what it says, is refused by name where it does not, and a seed fixes it."""

from __future__ import annotations

import math
import re
from dataclasses import fields
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semantic_net.errors import ConfigError, DataError
from semantic_net.simulation.faults import (
    Crash,
    Cut,
    CutOff,
    Fault,
    Heal,
    Leave,
    Mend,
    Partition,
    Rejoin,
    Start,
    strike,
)
from semantic_net.simulation.network_file import NetworkDescription, load_network
from semantic_net.simulation.network_plan import DeviceCosts
from semantic_net.simulation.network_presets import PRESETS
from semantic_net.simulation.network_sections import EnergySection, Peers
from semantic_net.simulation.virtual_time import run_virtual
from semantic_net.transport.bandwidth import RateTrace
from semantic_net.transport.link import LinkQuality
from semantic_net.transport.medium import MachineQuality
from semantic_net.transport.memory_network import MemoryNetwork

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "network.yaml"


def load_text(folder: Path, text: str) -> NetworkDescription:
    path = folder / "network.yaml"
    path.write_text(text, encoding="utf-8")
    return load_network(str(path))


# What is refused.


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lnk: {delay_s: 1}", "lnk.delay_s: unknown key; did you mean link.delay_s?"),
        ("link: {dela_s: 1}", "link.dela_s: unknown key; did you mean link.delay_s?"),
        ("link: {up_mbit_s: 1}", "link.up_mbit_s: unknown key; did you mean machine.up_mbit_s?"),
        (
            "links: [{betwen: [0, 1]}]",
            "links[0].betwen: unknown key; did you mean links[0].between",
        ),
        ("links: [{delay_s: 1}]", "links[0].between: required"),
        ("links: [{between: [0]}]", "links[0].between must be two lists of peers, got [[0]]"),
        (
            "links: [{between: [0, 9-5]}]",
            "links[0].between[1]: expected peers by number, such as 3",
        ),
        ("machines: [{peers: true}]", "machines[0].peers: expected peers by number"),
        ("machines: [{peers: []}]", "machines[0].peers must be one peer at least, got []"),
        ("link: {delay_s: -1}", "link.delay_s must be in [0, 600] s, got -1.0"),
        ("link: {loss: 0.9}", "link.loss must be in [0, 0.5], got 0.9"),
        ("link: {bandwidth_mbit_s: 0}", "link.bandwidth_mbit_s must be in [1e-06, 1e+06] Mbit/s"),
        ("machine: {queue: lifo}", "machine.queue must be one of fair, fifo, got 'lifo'"),
        ("machine: {half_duplex: 1}", "machine.half_duplex: expected true or false, got 1"),
        ("link: {trace: {path: 3}}", "link.trace.path: expected text, got 3; quote it"),
        ("link: {trace: {path: a, scale: 0}}", "link.trace.scale must be > 0, got 0.0"),
        (
            "machine: {up_mbit_s: 1, up_trace: {path: a}}",
            "machine.up_mbit_s must be unset beside machine.up_trace, got 1.0",
        ),
        (
            "outages: [{from_s: 1}]",
            "outages[0]: expected one of peers, between and groups, got none",
        ),
        (
            "outages: [{from_s: 1, peers: 0, groups: [0, 1]}]",
            "outages[0]: expected one of peers, between and groups, got peers and groups",
        ),
        ("outages: [{peers: 1}]", "outages[0].from_s: required"),
        (
            "outages: [{from_s: 1, groups: ['0-3', 3]}]",
            "outages[0].groups: peer 3 is in two",
        ),
        (
            "outages: [{from_s: 1, for_s: 5, groups: [0]}, {from_s: 5, groups: [1]}]",
            "outages[1].from_s: this partition begins before that of outages[0] ends",
        ),
        (
            "churn: {mean_up_s: 0, mean_down_s: 1}",
            "churn.mean_up_s must be in [0.1, 1e+09] s, got 0",
        ),
        (
            "absences: [{from_s: 1, peers: 0, how: die}]",
            "absences[0].how must be one of crash, leave",
        ),
        ("device: {spread: 3}", "device.spread must be in [0, 2], got 3.0"),
        ("energy: {idle_w: 1}", "energy.training_w: required"),
        ("preset: wify", "preset must be one of lan, lora, lte, mesh-disaster, wifi, got 'wify'"),
        ("- link", "expected sections such as 'link:', got ['link']"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_text(tmp_path, text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("wify", "network wify: neither a file nor a preset; did you mean wifi?"),
        ("xyz", "network xyz: neither a file nor a preset (lan, wifi, lte, lora, mesh-disaster)"),
        ("none.yaml", "network none.yaml: cannot be read: No such file or directory"),
    ],
)
def test_a_source_that_is_none_is_refused(source: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_network(source)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "machines: [{peers: '0-9', up_mbit_s: 1}]",
            "machines[0].peers: there is no peer 9; 3 peers are numbered from 0 to 2, and this "
            "network needs 10 (--peers)",
        ),
        (
            "links: [{between: [0, 3]}]",
            "links[0].between: there is no peer 3; 3 peers are numbered",
        ),
        ("outages: [{from_s: 1, groups: [0, 5]}]", "outages[0].groups: there is no peer 5"),
        ("machine: {channel: air}", "machine.channel must be with up_mbit_s, got 'air'"),
    ],
)
def test_what_does_not_fit_the_peers_is_refused(tmp_path: Path, text: str, message: str) -> None:
    found = load_text(tmp_path, text)
    with pytest.raises(ConfigError, match=re.escape(message)):
        found.plan(3, seed=0)


# What it means.


def test_presets_are_overlaid_key_by_key(tmp_path: Path) -> None:
    found = load_text(
        tmp_path,
        """
        preset: lte
        link: {jitter_s: 0}
        links: [{between: [0, "1-2"], delay_s: 1}, {between: [2, 0], one_way: true, loss: 0.1}]
        machines: [{peers: 1, up_mbit_s: 8}]
        """,
    )
    plan = found.plan(4, seed=0)
    plain = LinkQuality(delay_s=0.07, header_bytes=66)
    assert plan.link(1, 2) == plain
    assert plan.link(1, 2) is plan.link(3, 2), "one object a kind"
    assert plan.link(0, 1).delay_s == plan.link(1, 0).delay_s == plan.link(0, 2).delay_s == 1
    assert (plan.link(2, 0).loss, plan.link(2, 0).delay_s, plan.link(0, 2).loss) == (0.1, 1, 0)
    assert plan.machine(0) == MachineQuality(up_bytes_s=750_000.0, down_bytes_s=1_625_000.0)
    assert plan.machine(1) == MachineQuality(up_bytes_s=1e6, down_bytes_s=1_625_000.0)
    assert load_text(tmp_path, "").plan(1, 0).machine(0) == MachineQuality()


def test_a_file_can_take_back_what_a_preset_has(tmp_path: Path) -> None:
    found = load_text(tmp_path, "preset: mesh-disaster\nchurn: null\nrandom_outages: null")
    assert (found.churn, found.random_outages) == (None, None)
    assert list(found.plan(50, seed=0).faults()) == []


def test_a_trace_takes_the_place_of_a_number_and_shifts_by_peer(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("t_s,kbit_s,mbit_s\n5,8000,9\n7,16000,1\n", encoding="utf-8")
    found = load_text(
        tmp_path,
        """
        preset: lte
        machine: {up_trace: {path: t.csv, rate: kbit_s, scale: 0.001, shift: false}}
        machines: [{peers: 1, up_trace: {path: t.csv}, down_trace: {path: t.csv}}]
        """,
    )
    plan = found.plan(2, seed=0)
    trace = plan.machine(0).up_bytes_s
    assert isinstance(trace, RateTrace)
    assert [trace.at(now) for now in (0.0, 1.9, 2.1, 4.0)] == [1e6, 1e6, 2e6, 1e6]
    up, down = plan.machine(1).up_bytes_s, plan.machine(1).down_bytes_s
    assert isinstance(up, RateTrace)
    assert isinstance(down, RateTrace)
    assert up.end_s(0.0, 1e7) == down.end_s(0.0, 1e7) != trace.end_s(0.0, 1e7)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("t_s,rate\n0,1\n", "no column 'mbit_s' (rate); the file has t_s, rate"),
        ("t_s,mbit_s\n0,fast\n", "line 2: expected two numbers, got ['0', 'fast']"),
        ("t_s,mbit_s\n0\n", "line 2: expected two numbers, got ['0']"),
        ("t_s,mbit_s\n0,1\n0,2\n", "line 3: the time 0 is not after 0"),
        ("t_s,mbit_s\n0,-1\n", "line 2: expected a time, and a rate of 0 or more"),
        ("t_s,mbit_s\n0,0\n", "no row has a mbit_s above 0"),
        ("t_s,mbit_s\n", "no row has a mbit_s above 0"),
    ],
)
def test_a_broken_trace_is_refused(tmp_path: Path, table: str, message: str) -> None:
    (tmp_path / "t.csv").write_text(table, encoding="utf-8")
    with pytest.raises(DataError, match=re.escape(message)):
        load_text(tmp_path, "link: {trace: {path: t.csv}}")


def test_spaces_in_the_header_of_a_trace_are_no_part_of_its_names(tmp_path: Path) -> None:
    (tmp_path / "trace.csv").write_text("t_s, mbit_s\n0, 8\n2, 16\n")
    path = tmp_path / "network.yaml"
    path.write_text("machine: {up_trace: {path: trace.csv, shift: false}}")
    trace = load_network(str(path)).plan(1, 0).machine(0).up_bytes_s
    assert isinstance(trace, RateTrace)
    assert trace.length_s == 4.0


def test_a_missing_trace_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.csv: cannot be read as CSV: No such file"):
        load_text(tmp_path, "link: {trace: {path: none.csv}}")


def test_devices_differ_as_the_file_says(tmp_path: Path) -> None:
    found = load_text(
        tmp_path, "device: {step_s: 0.2, spread: 0.5}\ndevices: [{peers: 1, spread: 0, step_s: 3}]"
    )
    plan = found.plan(1000, seed=7)
    assert plan.device(1) == DeviceCosts(3.0, 0.03, 0.02, 1.0)
    logs = [math.log(plan.device(peer).step_s / 0.2) for peer in range(2, 1000)]
    assert sum(logs) / len(logs) == pytest.approx(0.0, abs=0.05)
    assert sum(x * x for x in logs) / len(logs) == pytest.approx(0.25, rel=0.1)
    one = plan.device(5)
    assert one.evaluate_s / one.step_s == pytest.approx(5.0), "a device is as slow in all things"
    assert plan.device(1).train_s(10) == 30.0
    assert plan.device(1).encode_s(2_000_000) == pytest.approx(0.06)
    assert plan.device(1).fold_s(2_000_000, 5) == pytest.approx(0.2)


def test_energy_is_a_sum() -> None:
    energy = EnergySection(idle_w=5, training_w=12, sent_j_per_mb=3.5, received_j_per_mb=0.5)
    assert energy.joules(100.0, 60.0, 2_000_000, 4_000_000) == 40 * 5 + 60 * 12 + 7 + 2


# What befalls it.


def test_scheduled_faults_come_in_order_and_as_one_where_they_overlap(tmp_path: Path) -> None:
    found = load_text(
        tmp_path,
        """
        outages:
        - {from_s: 10, for_s: 5, peers: [1, 2]}
        - {from_s: 12, for_s: 8, peers: 1}
        - {from_s: 1, for_s: 2, between: [[0, 1], 1]}
        - {from_s: 30, for_s: 10, groups: [0, "1-2"]}
        - {from_s: 40, groups: [0]}
        absences:
        - {from_s: 5, for_s: 5, peers: 2, how: leave}
        - {from_s: 0, for_s: 3, peers: 0}
        - {from_s: 50, peers: 0}
        """,
    )
    plan = found.plan(3, seed=0)
    assert list(plan.faults()) == [
        Cut(1.0, 0, 1),
        Mend(3.0, 0, 1),
        Start(3.0, 0),
        Leave(5.0, 2),
        CutOff(10.0, 1),
        CutOff(10.0, 2),
        Start(10.0, 2),
        Rejoin(15.0, 2),
        Rejoin(20.0, 1),
        Partition(30.0, (Peers({0}), Peers({1, 2}))),
        Heal(40.0),
        Partition(40.0, (Peers({0}),)),
        Crash(50.0, 0),
    ]
    assert [plan.is_there_at_start(peer) for peer in range(3)] == [False, True, True]
    assert plan.faults_until(3.0) == [Cut(1.0, 0, 1)]


def test_faults_strike_a_network() -> None:
    async def scenario() -> None:
        network, names = MemoryNetwork(), ["a", "b", "c"]

        def cut_pairs() -> str:
            pairs = (("a", "b"), ("a", "c"), ("b", "c"))
            return " ".join(x + y for x, y in pairs if network.is_cut(x, y))

        found = []
        for fault in (
            CutOff(1.0, 0),
            Cut(2.0, 1, 2),
            Rejoin(3.0, 0),
            Partition(4.0, (frozenset({0}), frozenset({1, 2}))),
            Mend(5.0, 1, 2),
            Heal(6.0),
        ):
            strike(network, fault, names)
            found.append(cut_pairs())
        assert found == ["ab ac", "ab ac bc", "bc", "ab ac bc", "ab ac", ""]

    run_virtual(scenario())


TROUBLE = """
random_outages: {mean_between_s: 100, mean_for_s: 20, share: 0.5}
churn: {mean_up_s: 300, mean_down_s: 100, share: 0.3, crash_share: 0.25}
outages: [{from_s: 50, for_s: 500, peers: "0-5"}]
absences: [{from_s: 0, for_s: 200, peers: "3-8"}]
"""


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_what_is_drawn_is_sorted_alternates_and_is_each_peers_own(
    seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    found = load_text(tmp_path_factory.mktemp("network"), TROUBLE)
    faults = found.plan(20, seed).faults_until(5000.0)
    assert [f.at_s for f in faults] == sorted(f.at_s for f in faults)
    fewer = found.plan(10, seed).faults_until(5000.0)
    assert fewer == [f for f in faults if peer_of(f) < 10], "ten of twenty are like ten"
    for peer in range(20):
        own = [f for f in faults if peer_of(f) == peer]
        cuts = [f for f in own if isinstance(f, CutOff | Rejoin)]
        comings = [f for f in own if isinstance(f, Crash | Leave | Start)]
        for kinds in (cuts, comings):
            for one, other in pairwise(kinds):
                assert one.at_s < other.at_s
                assert isinstance(one, Rejoin | Start) != isinstance(other, Rejoin | Start)
        if comings:
            is_there = found.plan(20, seed).is_there_at_start(peer)
            assert isinstance(comings[0], Start) != is_there


def peer_of(fault: Fault) -> int:
    assert isinstance(fault, CutOff | Rejoin | Crash | Leave | Start)
    return fault.peer


def test_what_is_drawn_is_as_often_as_the_file_says(tmp_path: Path) -> None:
    found = load_text(
        tmp_path,
        "random_outages: {mean_between_s: 100, mean_for_s: 20, share: 0.5}\n"
        "churn: {mean_up_s: 300, mean_down_s: 100, share: 0.3, crash_share: 0.25}",
    )
    faults = found.plan(1000, seed=1).faults_until(12_000.0)
    cut = {f.peer for f in faults if isinstance(f, CutOff)}
    assert len(cut) == pytest.approx(500, abs=50)
    assert sum(isinstance(f, CutOff) for f in faults) == pytest.approx(len(cut) * 100, rel=0.03)
    crashes = sum(isinstance(f, Crash) for f in faults)
    leaves = sum(isinstance(f, Leave) for f in faults)
    gone = {f.peer for f in faults if isinstance(f, Crash | Leave)}
    assert len(gone) == pytest.approx(300, abs=50)
    assert crashes + leaves == pytest.approx(len(gone) * 30, rel=0.05)
    assert crashes / (crashes + leaves) == pytest.approx(0.25, abs=0.02)


def test_a_seed_gives_the_same_everywhere(tmp_path: Path) -> None:
    plan = load_text(tmp_path, "preset: mesh-disaster\ndevice: {spread: 0.5}").plan(10, seed=1)
    assert plan.faults_until(700.0) == [
        CutOff(329.643227, 1),
        Rejoin(334.601477, 1),
        CutOff(530.920265, 3),
        Rejoin(560.436539, 3),
    ]
    assert plan.device(0).step_s == 0.142149547


# What is on paper.


def test_the_example_is_the_one_in_the_docs_and_valid() -> None:
    [shown] = re.findall(
        r"```yaml\n(.*?)```", (ROOT / "docs" / "simulation.md").read_text("utf-8"), re.DOTALL
    )
    assert shown == EXAMPLE.read_text("utf-8")
    plan = load_network(str(EXAMPLE)).plan(10, seed=0)
    assert plan.link(0, 1).bandwidth_bytes_s == 12.5e6
    assert plan.machine(8).channel == plan.machine(9).channel == "van"
    assert plan.faults_until(1000.0)


def test_the_docs_know_every_preset_and_the_example_every_key() -> None:
    docs = (ROOT / "docs" / "simulation.md").read_text("utf-8")
    assert re.findall(r"^\| `([a-z-]+)` \|", docs, re.MULTILINE) == list(PRESETS)
    example = EXAMPLE.read_text("utf-8")
    found = load_network(str(EXAMPLE))
    for name in ("link", "machine", "device", "random_outages", "churn", "energy"):
        for key in fields(getattr(found, name)):
            assert re.search(rf"\b{key.name}:", example), f"{name}.{key.name}"


@pytest.mark.parametrize("name", PRESETS)
def test_presets_load_and_make_a_network(name: str) -> None:
    plan = load_network(name).plan(3, seed=0)
    network = MemoryNetwork()
    plan.apply_to(network, ["a", "b", "c"])
    assert network.link("a", "b").quality == plan.link(0, 1)
    assert network.machine("c").quality == plan.machine(2)
    assert network.link("a", "elsewhere").quality == LinkQuality()
