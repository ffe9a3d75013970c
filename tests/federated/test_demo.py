"""The demo starts peers, watches them, ends them, and compares; the peers here are stand-ins."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import socket
import sys
from pathlib import Path

import msgspec
import pytest
from monitoring_support import make_record
from rich.console import Console

from semantic_net.config import dump_config, load_config
from semantic_net.errors import ConfigError, StartError
from semantic_net.federated import child_processes, demo_local
from semantic_net.federated.child_processes import Children, reserved_ports
from semantic_net.federated.demo import DemoOptions, run_demo
from semantic_net.federated.demo_figures import LocalResult, compare_models

HERE = Path(__file__).parent
TASK = HERE / "demo_task.py"
SETTINGS = (
    f"task.name={TASK}",
    "training.rounds=3",
    "training.steps=2",
    "training.batch_size=4",
)


@pytest.fixture(autouse=True)
def support_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the stand-in import what the tests do."""
    monkeypatch.setenv("PYTHONPATH", str(HERE.parent))


def options(out: Path, behaviour: str = "good", **changes: object) -> DemoOptions:
    command = (sys.executable, str(HERE / "demo_fake_peer.py"), behaviour)
    base = DemoOptions(peers=2, out=out, overrides=SETTINGS, peer_command=command)
    return DemoOptions(**{**{f: getattr(base, f) for f in base.__slots__}, **changes})


def run(demo: DemoOptions) -> tuple[int, str]:
    output = io.StringIO()
    code = run_demo(demo, Console(file=output, width=80))
    return code, output.getvalue()


def test_a_demo_from_start_to_table(tmp_path: Path) -> None:
    figures = tmp_path / "figures" / "seed1.json"
    code, text = run(options(tmp_path / "demo", seed=1, json=figures))
    assert code == 0, text
    assert text.count("round 3/3") == 2
    # Each peer alone has seen one class only; together they know both.
    assert re.search(r"federated +100\.0", text)
    assert "The federated model beats the best local-only one" in text
    assert f"state_digest equal on all 2 peers in all 3 rounds: {'3' * 64}" in text
    found = json.loads(figures.read_text(encoding="utf-8"))
    assert found["federated"] == {"accuracy": 1.0}
    assert found["gain"] > 0.3
    assert found["num_examples"] == 5 + 6
    assert found["local_steps"] == 3 * 2
    assert found["bytes_sent"] == 2 * 3 * 12_345
    assert found["dense_bytes"] == 2 * 3 * 2_000_000
    assert (found["seed"], found["digests_equal"], found["state_digest"]) == (1, True, "3" * 64)
    config = load_config(tmp_path / "demo" / "demo.yaml")
    assert (config.task.seed, config.data.seed, config.training.seed) == (1, 1, 1)
    assert config.data.partition.num_shards == 2


def quick_baseline(folder: Path) -> tuple[str, ...]:
    """Return a command that stands in for the baselines."""
    result = LocalResult(
        metric="accuracy",
        higher_is_better=True,
        local={"accuracy": 0.5},
        federated={"accuracy": 0.6},
        num_examples=1,
        num_steps=1,
    )
    script = folder / "local.py"
    script.write_text(
        "import pathlib, sys\n"
        "out = pathlib.Path(sys.argv[sys.argv.index('--out') + 1])\n"
        f"out.write_bytes({msgspec.json.encode(result)!r})\n"
    )
    return (sys.executable, str(script))


def test_unequal_digests_are_said_and_are_exit_code_1(tmp_path: Path) -> None:
    local = quick_baseline(tmp_path)
    code, text = run(options(tmp_path / "demo", "diverge", local_command=local))
    assert code == 1
    assert "state_digest NOT equal: round 2: unequal digests of the same updates: a bug" in text
    assert "peer 2 alone" in text  # the rest is shown all the same


def test_figures_that_cannot_be_written_are_an_error(tmp_path: Path) -> None:
    local, json_file = quick_baseline(tmp_path), tmp_path / "local.py" / "figures.json"
    with pytest.raises(StartError, match=r"--json .*: cannot be written: "):
        run(options(tmp_path / "demo", local_command=local, json=json_file))


def test_a_peer_that_fails_ends_the_demo_with_its_last_line(tmp_path: Path) -> None:
    with pytest.raises(StartError) as caught:
        run(options(tmp_path / "demo", "crash"))
    assert str(caught.value).startswith(
        "peer 2 failed with exit code 3: error: the data is gone (all of it: "
    )


@pytest.mark.parametrize("behaviour", ["interrupt", "terminate"])
def test_an_interrupted_demo_asks_its_peers_to_end(tmp_path: Path, behaviour: str) -> None:
    code, text = run(options(tmp_path / "demo", behaviour))
    assert code == 130
    assert "interrupted" in text
    assert (tmp_path / "demo/peer2/asked").exists()
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "demo/peer2/pid").read_text()), 0)


def test_a_demo_begun_with_ctrl_c_ignored_is_interrupted_all_the_same(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in a shell's background job
    try:
        code, _ = run(options(tmp_path / "demo", "interrupt"))
        assert code == 130
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_peer_that_does_not_end_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child_processes, "GRACE_S", 0.1)
    code, _ = run(options(tmp_path / "demo", "stubborn"))
    assert code == 130
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "demo/peer2/pid").read_text()), 0)


def test_a_baseline_that_fails_ends_the_demo(tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("import sys; sys.exit('no such data')")
    with pytest.raises(StartError, match=r"alone failed with exit code 1: no such data"):
        run(options(tmp_path / "demo", local_command=(sys.executable, str(broken))))


def test_a_baseline_without_a_result_ends_the_demo(tmp_path: Path) -> None:
    nothing = tmp_path / "nothing.py"
    nothing.write_text("")
    with pytest.raises(StartError, match="a baseline left no result"):
        run(options(tmp_path / "demo", local_command=(sys.executable, str(nothing))))


def test_an_earlier_demo_is_replaced_and_nothing_else_is(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    with pytest.raises(StartError, match="holds something that is no demo's"):
        run(options(out))
    assert (out / "thesis.txt").exists()
    (out / "demo.yaml").touch()
    earlier = ("peer7", "local7.json", "peer-7.err.txt", "peer-7-alone.out.txt")
    for name in earlier:
        (out / name).touch()
    with pytest.raises(StartError, match="peer 2 failed"):
        run(options(out, "crash"))
    assert (out / "thesis.txt").exists()
    assert not any((out / name).exists() for name in earlier)
    assert (out / "demo.yaml").stat().st_size > 0


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "demo"):
        with pytest.raises(StartError, match=r"--out .*: cannot be used: Not a directory"):
            run(options(out))


def test_wrong_options_start_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--peers must be >= 2, got 1"):
        run(options(tmp_path / "demo", peers=1))
    with pytest.raises(ConfigError, match=r"training.rounds must be >= 1, got 0"):
        run(options(tmp_path / "demo", overrides=(), rounds=0))
    assert not (tmp_path / "demo").exists()


def test_a_configuration_of_ones_own_replaces_the_demos_settings(tmp_path: Path) -> None:
    config = tmp_path / "own.yaml"
    config.write_text("training: {rounds: 7, learning_rate: 0.5}", encoding="utf-8")
    with pytest.raises(StartError, match="peer 2 failed"):
        run(options(tmp_path / "demo", "crash", config=config, overrides=(), rounds=2))
    used = load_config(tmp_path / "demo" / "demo.yaml")
    assert (used.training.rounds, used.training.learning_rate) == (2, 0.5)


def local_config(folder: Path, *overrides: str) -> Path:
    config = load_config(None, [*SETTINGS, "data.partition.num_shards=2", *overrides])
    path = folder / "demo.yaml"
    path.write_text(dump_config(config), encoding="utf-8")
    return path


def test_a_baseline_trains_one_shard_and_is_judged_on_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, out = local_config(tmp_path, "training.steps=30"), tmp_path / "local.json"
    code = demo_local.main(["--config", str(config), "--shard", "1", "--out", str(out)])
    assert code == 0
    assert capsys.readouterr().out.splitlines() == ["round 1", "round 2", "round 3"]
    found = msgspec.json.decode(out.read_bytes(), type=LocalResult)
    assert (found.num_examples, found.num_steps, found.federated) == (11, 90, None)
    assert found.local["accuracy"] < 1


def test_a_baseline_says_what_is_wrong_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = local_config(tmp_path)
    arguments = ["--config", str(config), "--shard", "0", "--out", str(tmp_path / "local.json")]
    code = demo_local.main([*arguments, "--federated", str(tmp_path / "none.safetensors")])
    assert code == 3
    assert capsys.readouterr().err.startswith("error: weights ")


def test_a_round_that_cannot_be_trained_does_not_end_a_baseline(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = local_config(tmp_path, "task.options={broken: true}")
    arguments = ["--config", str(config), "--shard", "0", "--out", str(tmp_path / "local.json")]
    assert demo_local.main(arguments) == 0
    assert "round 1: " in capsys.readouterr().err


def test_nothing_to_compare_is_an_error() -> None:
    result = LocalResult(
        metric="miou",
        higher_is_better=True,
        local={"miou": 0.1},
        federated={},
        num_examples=1,
        num_steps=1,
    )
    with pytest.raises(StartError, match=r"no finite miou; lower training.learning_rate"):
        compare_models([result], [[make_record()]], 1.0, 1.0)


def test_reserved_ports_are_free_for_a_child_and_for_nobody_else() -> None:
    with reserved_ports(3) as ports:
        assert len(set(ports)) == 3
        with socket.create_server(("127.0.0.1", ports[0])) as server:
            socket.create_connection(server.getsockname()).close()
        with socket.socket() as other, pytest.raises(OSError, match="Address already in use"):
            other.bind(("127.0.0.1", ports[1]))


def test_a_child_ended_by_a_signal_is_said(tmp_path: Path) -> None:
    with Children(tmp_path) as children:
        child = children.start("peer 1", [sys.executable, "-c", "import os; os.kill(0, 9)"])
        child.process.wait()
        with pytest.raises(StartError, match=r"peer 1 was ended by signal SIGKILL: it said noth"):
            children.all_done()


def test_no_child_outlives_an_error(tmp_path: Path) -> None:
    started = []

    def start_and_fail() -> None:
        with Children(tmp_path) as children:
            command = [sys.executable, "-c", "import signal; signal.pause()"]
            started.append(children.start("peer 1", command))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        start_and_fail()
    assert started[0].process.returncode is not None
