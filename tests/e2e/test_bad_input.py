"""What a user gets wrong, or the network sends: one line, the right exit code, and no hang."""

from __future__ import annotations

import json
import logging
import signal
import socket
from pathlib import Path

import pytest
import safetensors.torch
import torch
from PIL import Image
from processes_support import PeerProcess, free_ports, running, settings

from semantic_net.cli import main
from semantic_net.monitoring.recorder import read_rounds


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Run a peer in this process; return its exit code and what it said on standard error."""
    try:
        code = main(["peer", *arguments])
    except SystemExit as exc:  # argparse
        code = int(exc.code or 0)
    return code, capsys.readouterr().err


def assert_one_line(said: str) -> None:
    assert said.count("\n") == 1, said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--set", "p2p.prot=1"], "p2p.prot: unknown key; did you mean p2p.port?"),
        (["--set", "train.rounds=2"], "train.rounds: unknown key; did you mean training.rounds?"),
        (["--set", "train.foo=2"], "train.foo: unknown key; did you mean training?"),
        (["--set", "p2p.port=many"], "p2p.port: expected a whole number, got 'many'"),
        (["--set", "semantic.topk=2"], "semantic.topk must be in (0, 1], got 2.0"),
        (
            ["--set", "p2p.topology=star"],
            "p2p.topology must be full, given, ring, line",
        ),
        (["--set", "nonsense"], "--set nonsense: expected section.key=value"),
        (["--rounds", "0"], "training.rounds must be >= 1, got 0"),
        (["--peers", "somewhere"], "'somewhere' is not an address"),
        (["--listen", "localhost"], "'localhost' is not an address"),
        (["--config", "missing.yaml"], "config missing.yaml: cannot be read: No such file"),
        (["--set", "task.name=disastr"], "disaster"),
        (["--resume", "maybe"], "invalid choice"),
    ],
)
def test_wrong_usage_is_told_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    code, heard = run(capsys, "--out", str(tmp_path / "out"), *arguments)
    assert code == 2
    assert said in heard
    assert_one_line(heard)


def test_an_unknown_key_is_told_before_anything_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text("p2p:\n  listen_timout_s: 3\n")
    out = tmp_path / "out"
    code, said = run(capsys, "--config", str(config), "--out", str(out))
    assert code == 2
    assert "p2p.listen_timout_s: unknown key; did you mean p2p.listen_timeout_s?" in said
    assert not out.exists()


def test_a_missing_data_folder_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = run(
        capsys,
        *("--out", str(tmp_path / "out"), "--listen", "127.0.0.1:0"),
        *("--set", "data.source=rescuenet", "--set", f"data.path={tmp_path / 'nowhere'}"),
    )
    assert code == 3
    assert "nowhere" in said
    assert_one_line(said)


def test_an_image_without_its_mask_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder, names in {"images": ("one", "two", "three"), "masks": ("one", "three")}.items():
        (tmp_path / folder).mkdir()
        for name in names:
            mode = "RGB" if folder == "images" else "L"
            Image.new(mode, (64, 64)).save(tmp_path / folder / f"{name}.png")
    code, said = run(
        capsys,
        *("--out", str(tmp_path / "out"), "--listen", "127.0.0.1:0"),
        *("--set", "data.source=folder", "--set", f"data.path={tmp_path}"),
        *("--set", "data.classes=[ground, house]"),
    )
    assert code == 3
    assert "two.png" in said
    assert_one_line(said)


def test_a_busy_port_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        code, said = run(
            capsys,
            *("--out", str(tmp_path / "out"), "--listen", f"127.0.0.1:{port}", *settings()),
        )
    assert code == 3
    assert f"cannot listen on 127.0.0.1:{port}: the port is in use" in said


def test_a_folder_in_use_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = PeerProcess(
        tmp_path / "out",
        ["--listen", "127.0.0.1:0", "--peers", "127.0.0.1:9", *settings()],
    )
    try:
        first.wait_until_listening()
        code, said = run(capsys, "--out", str(tmp_path / "out"), *settings())
    finally:
        first.kill()
    assert code == 3
    assert "another peer runs in this folder" in said


@pytest.mark.parametrize("content", [b"", b"no safetensors", b"\x08\0\0\0\0\0\0\0{}      "])
def test_weights_that_are_none_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    (tmp_path / "weights").write_bytes(content)
    code, said = run(
        capsys,
        *("--out", str(tmp_path / "out"), "--listen", "127.0.0.1:0"),
        *("--init", str(tmp_path / "weights"), *settings()),
    )
    assert code == 3
    assert "weights" in said
    assert_one_line(said)


def test_another_models_checkpoint_is_refused_with_the_key_that_differs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--out", str(tmp_path / "out"), "--listen", "127.0.0.1:0", "--rounds", "1"]
    code, said = run(capsys, *common, *settings())
    assert code == 0, said
    code, said = run(capsys, *common, *settings("aggregation.outer_momentum=0.25"))
    assert code == 3
    assert "aggregation.outer_momentum: ours 0.25, theirs 0.5" in said
    assert "--resume never" in said
    code, said = run(
        capsys, *common, "--resume", "never", *settings("aggregation.outer_momentum=0.25")
    )
    assert code == 0, said
    previous = {path.name for path in (tmp_path / "out" / "previous").iterdir()}
    assert previous >= {"checkpoint", "model.safetensors", "rounds.jsonl", "summary.json"}
    assert f"what the run before has left is in {tmp_path / 'out' / 'previous'}" in said


SOUND_LOSS = "torch.nn.functional.cross_entropy"
BROKEN_LOSS = "lambda output, target: output.sum() * float('nan')"


def write_task(path: Path, width: int = 3, loss: str = SOUND_LOSS) -> str:
    path.write_text(
        "import torch\n"
        "from semantic_net.task import Task, accuracy\n"
        "def load(cfg):\n"
        f"    data = [(torch.full(({width},), float(i)), i % 2) for i in range(8)]\n"
        f"    return Task(make_model=lambda: torch.nn.Linear({width}, 2), train_data=data,\n"
        f"                val_data=data, loss={loss}, metrics=accuracy)\n"
    )
    return f"task.name={path}"


def test_a_larger_models_checkpoint_is_refused_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--out", str(tmp_path / "out"), "--listen", "127.0.0.1:0", "--rounds", "1"]
    code, said = run(capsys, *common, *settings(write_task(tmp_path / "mine.py")))
    assert code == 0, said
    code, said = run(capsys, *common, *settings(write_task(tmp_path / "mine.py", width=5)))
    assert code == 3
    assert "model: ours 12 parameters" in said
    assert_one_line(said)


def test_a_run_whose_rounds_all_failed_goes_on_with_better_settings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--out", str(tmp_path / "out"), "--listen", "127.0.0.1:0"]
    broken = settings(write_task(tmp_path / "mine.py", loss=BROKEN_LOSS))
    code, said = run(capsys, *common, "--rounds", "1", *broken)
    assert code == 0, said
    assert "the loss became nan" in said
    sound = settings(write_task(tmp_path / "mine.py"))
    code, said = run(capsys, *common, "--rounds", "2", *sound)
    assert code == 0, said
    assert [
        len(record.updates_in) for record in read_rounds(tmp_path / "out" / "rounds.jsonl")
    ] == [
        0,
        1,
    ]


def test_a_start_that_fails_costs_no_earlier_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--out", str(tmp_path / "out"), "--listen", "127.0.0.1:0", "--rounds", "1"]
    used = settings(write_task(tmp_path / "mine.py"))
    assert run(capsys, *common, *used)[0] == 0
    again = [*common, "--resume", "never", *used]
    assert run(capsys, *again, "--init", str(tmp_path / "missing"))[0] == 3
    assert run(capsys, *again)[0] == 0
    previous = tmp_path / "out" / "previous" / "checkpoint"
    assert (previous / "progress.safetensors").exists(), "the trained one is still there"
    said = (tmp_path / "out" / "log.txt").read_text()
    assert f"weights {tmp_path / 'missing'}: cannot be read: No such file or directory" in said


@pytest.mark.parametrize("is_relative", [False, True])
def test_an_error_in_a_tasks_own_code_is_one_line_and_a_traceback_in_the_log(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    is_relative: bool,
) -> None:
    monkeypatch.chdir(tmp_path)
    loss = "lambda output, target: (_ for _ in ()).throw(RuntimeError('no such loss'))"
    task = Path("mine.py") if is_relative else tmp_path / "mine.py"
    code, said = run(
        capsys,
        *("--out", str(tmp_path / "out"), "--listen", "127.0.0.1:0"),
        *settings(write_task(task, loss=loss)),
    )
    assert code == 1
    [line] = [line for line in said.splitlines() if "error" in line]
    assert f"the run broke: {task}, line 6: RuntimeError: no such loss" in line
    assert "Traceback" not in said
    assert "Traceback" in (tmp_path / "out" / "log.txt").read_text()


def test_a_model_that_cannot_be_written_is_no_success(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out" / "model.safetensors").mkdir(parents=True)  # in its place
    code, said = run(
        capsys,
        *("--out", str(tmp_path / "out"), "--listen", "127.0.0.1:0", "--rounds", "2"),
        *settings(write_task(tmp_path / "mine.py")),
    )
    assert code == 1
    assert said.splitlines()[-1].startswith("semantic-net: error: ")
    assert "model.safetensors cannot be written: Is a directory" in said.splitlines()[-1]
    first, second = read_rounds(tmp_path / "out" / "rounds.jsonl")
    assert any("model.safetensors cannot be written" in note for note in second.notes), "recorded"
    assert first.updates_in == second.updates_in, "the run went on"


@pytest.mark.parametrize(
    ("metrics", "code", "said"),
    [
        ("lambda model, batches, device: 0.5", 2, "metrics must return numbers by name, got 0.5"),
        ("accuracy, metric='f1'", 0, "the task's metric 'f1' is not among accuracy"),
        ("accuracy, fingerprint={'classes': 3}", 2, "fingerprint must be of texts, got 'classes'"),
    ],
)
def test_what_a_task_must_give_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], metrics: str, code: int, said: str
) -> None:
    task = tmp_path / "mine.py"
    used = write_task(task)
    task.write_text(task.read_text().replace("metrics=accuracy", f"metrics={metrics}"))
    common = ["--out", str(tmp_path / "out"), "--listen", "127.0.0.1:0", "--rounds", "1"]
    ended, heard = run(capsys, *common, *settings(used))
    assert (ended, said in heard) == (code, True), heard


def test_weights_given_to_a_resumed_run_are_said_to_be_of_no_use(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--out", str(tmp_path / "out"), "--listen", "127.0.0.1:0"]
    used = settings(write_task(tmp_path / "mine.py"))
    assert run(capsys, *common, "--rounds", "1", *used)[0] == 0
    gone = tmp_path / "gone.safetensors"
    code, said = run(capsys, *common, "--rounds", "2", "--init", str(gone), *used)
    assert code == 0
    assert f"--init {gone} is not used: the run goes on from its checkpoint" in said


def test_weights_that_are_not_finite_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = {"weight": torch.full((2, 3), float("nan")), "bias": torch.zeros(2)}
    safetensors.torch.save_file(weights, tmp_path / "weights")
    code, said = run(
        capsys,
        *("--out", str(tmp_path / "out"), "--init", str(tmp_path / "weights")),
        *settings(write_task(tmp_path / "mine.py")),
    )
    assert code == 3
    assert "tensor weight has entries that are not finite" in said
    assert_one_line(said)


def test_unreachable_peers_are_a_warning_and_a_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    [port] = free_ports(1)
    code, said = run(
        capsys,
        *("--out", str(tmp_path / "out"), "--listen", "127.0.0.1:0", "--rounds", "2"),
        *("--peers", f"127.0.0.1:{port}"),
        *settings("p2p.start_timeout_s=0.5", "p2p.listen_timeout_s=0.3"),
    )
    assert code == 0
    assert f"127.0.0.1:{port} does not answer: Connection refused" in said
    assert f"not connected to 127.0.0.1:{port} in 0.5 s; going on" in said
    first, second = read_rounds(tmp_path / "out" / "rounds.jsonl")
    assert first.close_reason == second.close_reason == "deadline, cut off"
    assert 0.3 <= second.exchange_s < 2.0, "closes no round before the deadline, nor long after"
    assert any("not connected to" in note for note in first.notes)


def test_garbage_on_the_port_costs_nothing_but_a_count(tmp_path: Path) -> None:
    with running(tmp_path, 2, "training.steps=200", rounds=4) as peers:
        host, _, port = peers[0].wait_until_listening().rpartition(":")
        for garbage in (
            b"GET / HTTP/1.1\r\n\r\n",
            b"\x80\x04pickle." * 9,
            bytes(100),
            b"SNET" * 99,
        ):
            with socket.create_connection((host, int(port)), timeout=10) as stranger:
                stranger.sendall(garbage)
                stranger.shutdown(socket.SHUT_WR)
                while stranger.recv(4096):  # until the peer hangs up
                    pass
        assert [peer.wait() for peer in peers] == [0, 0], peers[0].said()
    assert peers[0].digests() == peers[1].digests()
    rejected = sum(record.rejected.get("protocol", 0) for record in peers[0].rounds)
    assert rejected >= 4


@pytest.mark.parametrize(
    ("key", "override"),
    [("run", "p2p.run=another"), ("aggregation.outer_lr", "aggregation.outer_lr=0.5")],
)
def test_a_peer_that_does_not_fit_is_refused_and_both_name_the_key(
    tmp_path: Path, key: str, override: str
) -> None:
    quick = ("p2p.start_timeout_s=1", "p2p.listen_timeout_s=0.5")

    def each(index: int) -> list[str]:
        return ["--set", override] if index else []

    def has_counted(peer: PeerProcess) -> bool:
        peer.read_rounds()
        return any(record.rejected.get("facts") for record in peer.rounds)

    # More rounds than they need: nobody knows how far apart two processes start.
    with running(tmp_path, 2, *quick, rounds=10_000, each=each) as peers:
        for peer in peers:
            peer.wait_until(has_counted, "counted a refusal")
            assert f"{key}: ours" in peer.said()
        for peer in peers:
            peer.send(signal.SIGTERM)
        assert [peer.wait() for peer in peers] == [130, 130], peers[0].said()
    for peer in peers:
        assert all(record.updates_in == [record.peer] for record in peer.rounds)


def test_the_resolved_configuration_can_be_run_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    arguments = ["--listen", "127.0.0.1:0", "--rounds", "1"]
    with caplog.at_level(logging.ERROR):
        assert main(["peer", "--out", str(tmp_path / "one"), *arguments, *settings()]) == 0
        config = tmp_path / "one" / "config.yaml"
        again = ["peer", "--out", str(tmp_path / "two"), "--config", str(config)]
        assert main(again) == 0
    capsys.readouterr()
    summary = json.loads((tmp_path / "two" / "summary.json").read_text())
    assert summary["rounds"] == 1
    assert summary["versions"]["torch"] == str(torch.__version__)
