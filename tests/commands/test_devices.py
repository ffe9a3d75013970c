"""What decides who takes part can be done by hand and by script, and undone."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from semantic_net.cli import main
from semantic_net.transport.device import DeviceIdentity
from semantic_net.transport.invite import Invite, seal_invite, write_invite
from semantic_net.transport.trust import TrustFile


class Cli:
    """One device's command line."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.capsys = capsys

    def __call__(self, command: str, *arguments: str, code: int = 0) -> str:
        """Return what a command prints, or says is wrong."""
        assert main([command, "--folder", str(self.folder), *arguments]) == code
        out, err = self.capsys.readouterr()
        return out if code == 0 else err

    def json(self, command: str, *arguments: str) -> Any:
        """Return what a command prints for programs."""
        return json.loads(self(command, "--json", *arguments))

    def invite(self, *arguments: str) -> str:
        """Return this device's invite."""
        invite: str = self.json("id", *arguments)["invite"]
        return invite


@pytest.fixture
def ours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Return this device."""
    return Cli(tmp_path / "ours", capsys)


@pytest.fixture
def theirs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Return another device."""
    return Cli(tmp_path / "theirs", capsys)


def test_the_key_is_made_once_and_for_its_owner_only(ours: Cli) -> None:
    first = ours("id")
    assert ours("id") == first
    assert stat.S_IMODE((ours.folder / "key.pem").stat().st_mode) == 0o600
    assert ours.json("id")["id_for_people"] in first


def test_an_invite_is_all_that_pairing_takes(ours: Cli, theirs: Cli) -> None:
    flags = ("--address", "10.0.0.2:5000", "--run", "field", "--name", "drone 3")
    said = ours("pair", theirs.invite(*flags))
    assert "drone-3 is let in" in said
    assert "10.0.0.2:5000" in said
    assert "--set p2p.run=field" in said
    [known] = ours.json("peers")
    assert known["id"] == theirs.json("id")["id"]
    assert known["addresses"] == ["10.0.0.2:5000"]
    assert known["name"] == "drone-3"
    assert known["is_revoked"] is False
    assert "drone-3" in ours("peers")


def test_a_revoked_device_stays_known_and_can_be_let_in_again(ours: Cli, theirs: Cli) -> None:
    invite = theirs.invite("--name", "drone")
    ours("pair", invite)
    assert "is kept out" in ours("revoke", theirs.json("id")["id_for_people"])
    assert ours.json("peers")[0]["is_revoked"] is True
    assert ours("peers").startswith("revoked")
    assert "--again" in ours("pair", invite, code=2), "a script must not undo it in passing"
    assert "is let in" in ours("pair", invite, "--again")
    assert ours.json("revoke", "drone")["is_revoked"] is True


def test_a_trust_file_can_be_copied_to_another_device(
    ours: Cli, theirs: Cli, tmp_path: Path
) -> None:
    ours("pair", theirs.invite())
    theirs("id")
    (theirs.folder / "trust.txt").write_bytes((ours.folder / "trust.txt").read_bytes())
    assert theirs.json("peers") == ours.json("peers")


def test_mistakes_are_one_line_that_says_what_to_do(ours: Cli, theirs: Cli) -> None:
    invite = theirs.invite("--name", "drone")
    assert "the invite is not whole" in ours("pair", invite[:-9], code=2)
    assert "an invite begins with" in ours("pair", "drone", code=2)
    assert "this device's own" in ours("pair", ours.invite(), code=2)
    assert "nor how one begins, nor a name" in ours("revoke", "drone", code=2)
    assert "could be taken for" in ours("id", "--name", "a" * 40, code=2)
    stranger = theirs.json("id")["id_for_people"]
    assert "no device " + stranger in ours("revoke", stranger, code=2)
    assert "was misread" in ours("revoke", stranger[:-1] + "7a"[stranger.endswith("7")], code=2)
    assert "not an address" in ours("id", "--address", "here", code=2)
    assert "could be dialled" in ours("id", "--address", "0.0.0.0:5000", code=2)
    ours("pair", invite)
    ours("pair", Cli(theirs.folder.with_name("third"), ours.capsys).invite("--name", "drone"))
    assert "'drone' stands for 2 devices; give one's id" in ours("revoke", "drone", code=2)
    ours.folder.joinpath("trust.txt").write_text("# fine\ntrusted what\n")
    assert "trust.txt:2: expected: trusted or revoked" in ours("peers", code=3)


def test_what_an_invite_says_is_quoted(ours: Cli, theirs: Cli) -> None:
    said = ours("pair", theirs.invite("--run", "\x1b[2J; rm x"))
    assert "--set p2p.run='?[2J; rm x'" in said


def test_an_id_is_an_id_whatever_devices_call_themselves(ours: Cli, theirs: Cli) -> None:
    """The name comes from the invite: it must not shadow another device's id."""
    victim = theirs.json("id")["id"]
    ours("pair", theirs.invite())
    own = DeviceIdentity(theirs.folder.with_name("third"))
    invite = write_invite(Invite(own.certificate, [], "default", victim))
    assert "could be taken for a device's id" in ours("pair", invite, code=2)
    assert ours.json("revoke", victim)["id"] == victim


@pytest.mark.parametrize("body", [b"\x91" * 9000, b"\x94\xc4\x01c\x90\xa1\xff\xa1n", b"\xc0"])
def test_an_invite_that_makes_no_sense_is_one_line(ours: Cli, body: bytes) -> None:
    assert "makes no sense" in ours("pair", seal_invite(body), code=2)


def test_files_are_for_their_owner_only(ours: Cli, theirs: Cli) -> None:
    before = os.umask(0)
    try:
        ours("pair", theirs.invite())
    finally:
        os.umask(before)
    assert stat.S_IMODE(ours.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((ours.folder / "trust.txt").stat().st_mode) == 0o600


def test_a_raw_key_says_that_it_has_to_be_pem(ours: Cli) -> None:
    ours.folder.mkdir()
    (ours.folder / "key.pem").write_bytes(bytes(32))
    assert "has to be PEM" in ours("id", code=3)


def test_nothing_is_lost_when_two_pair_at_once(ours: Cli, theirs: Cli, tmp_path: Path) -> None:
    """Each change reads the file anew under a lock, and replaces it as a whole."""
    invites = [Cli(tmp_path / str(number), ours.capsys).invite() for number in range(3)]
    for invite in invites:
        ours("pair", invite)
    file = TrustFile(ours.folder / "trust.txt")
    assert len(file.read().trusted) == len(invites)
    assert not list(ours.folder.glob(".trust.txt.*[!k]")), "nothing is left behind"


def test_what_its_owner_calls_a_device_is_remembered(ours: Cli) -> None:
    first = ours.json("id", "--name", "drone A", "--address", "10.0.0.3:5000")
    assert (first["name"], first["addresses"]) == ("drone-A", ["10.0.0.3:5000"])
    again = ours.json("id")
    assert (again["name"], again["addresses"]) == (first["name"], first["addresses"])
    renamed = ours.json("id", "--name", "drone-B")
    assert (renamed["name"], renamed["addresses"]) == ("drone-B", first["addresses"])
    (ours.folder / "device.json").write_text("{")
    assert "remove it to begin anew" in ours("id", code=3)


def test_an_id_may_be_cut_short_where_only_one_device_is_meant(ours: Cli, theirs: Cli) -> None:
    victim = theirs.json("id")
    ours("pair", theirs.invite())
    assert "nor how one begins" in ours("revoke", victim["id"][:3], code=2), "too short"
    assert ours.json("revoke", victim["id_for_people"][:9])["id"] == victim["id"]
    third = Cli(theirs.folder.with_name("third"), ours.capsys)
    ours("pair", third.invite("--name", victim["id_for_people"][:9]))
    said = ours("revoke", victim["id_for_people"][:9], code=2)
    assert "stands for 2 devices" in said, "a name must not shadow another device's id"


def test_a_revocation_may_reach_back(ours: Cli, theirs: Cli) -> None:
    ours("pair", theirs.invite("--name", "drone"))
    ours("revoke", "drone")
    assert ours.json("peers")[0]["void_from"] is None
    said = ours("revoke", "drone", "--void-from", "12")
    assert "nothing of it counts from round 12 on, or from\nthe next one" in said
    ours("revoke", "drone", "--void-from", "40")
    assert ours.json("peers")[0]["void_from"] == 12, "the earliest holds"
    assert "revoked@12" in (ours.folder / "trust.txt").read_text()
    assert ours("peers").startswith("revoked@12")
    ours("pair", "--again", theirs.invite())
    assert ours.json("peers")[0]["void_from"] is None


@pytest.mark.parametrize("number", ["0", "-1", "x", "1.5", "9" * 12])
def test_a_round_that_is_none_is_told(ours: Cli, number: str) -> None:
    with pytest.raises(SystemExit) as exited:
        ours("revoke", "drone", f"--void-from={number}")
    assert exited.value.code == 2
    assert f"not '{number}'" in ours.capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["peer", "--peer", "x"], "unrecognized arguments: --peer x; did you mean --peers?"),
        (["peer", "--round=3"], "did you mean --rounds?"),
        (["demo", "--everything"], "unrecognized arguments: --everything; see semantic-net demo"),
    ],
)
def test_a_flag_that_is_none_gets_the_one_most_like_it(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exited:
        main(arguments)
    assert exited.value.code == 2
    assert said in capsys.readouterr().err
