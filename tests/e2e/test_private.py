"""Differential privacy in a run: the account is kept, told, and outlives the process."""

from __future__ import annotations

from pathlib import Path

import pytest
from processes_support import running

pytest.importorskip("opacus", reason="the extra privacy is not installed")

NOISY = ("privacy.noise_multiplier=1.5", "privacy.delta=0.001")


def test_a_budget_too_small_for_a_round_can_be_raised_later(tmp_path: Path) -> None:
    """Rounds without an own update counted as rounds without noise."""
    for limit, authors in ((0.001, 0), (100, 1)):
        budget = f"privacy.max_epsilon={limit}"
        with running(tmp_path, 1, *NOISY, budget, rounds=1 + authors) as [peer]:
            assert peer.wait() == 0, peer.said()
            peer.read_rounds()
            assert len(peer.rounds[-1].updates_in) == authors


def test_peers_learn_with_noise_and_keep_account_of_it(tmp_path: Path) -> None:
    with running(tmp_path, 2, *NOISY, rounds=3) as peers:
        assert [peer.wait() for peer in peers] == [0, 0], peers[0].said()
        assert peers[0].digests() == peers[1].digests(), "of what is told, one model"
        costs = [record.epsilon or 0.0 for record in peers[0].rounds]
        assert 0 < costs[0] < costs[1] < costs[2]
        assert {record.delta for record in peers[0].rounds} == {0.001}
        assert f"epsilon {costs[2]:.3g}" in peers[0].said()
        assert "DEBUG" not in peers[0].said(), "Opacus sets up logging for everybody"

    def goes_on(index: int) -> list[str]:
        return ["--set", f"privacy.max_epsilon={costs[2] + 1e-6}"]

    with running(tmp_path, 2, *NOISY, rounds=4, each=goes_on) as peers:
        assert [peer.wait() for peer in peers] == [0, 0], peers[0].said()
        peers[0].read_rounds()
        assert peers[0].rounds[-1].round == 4
        assert peers[0].rounds[-1].updates_in == []
        assert "privacy.max_epsilon" in peers[0].said()

    with running(tmp_path, 2, rounds=5) as peers:
        assert [peer.wait() for peer in peers] == [2, 2], "no epsilon would hold of it"
        assert "the rounds so far in" in peers[0].said()
        assert "name another --out" in peers[0].said()
