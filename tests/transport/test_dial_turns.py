"""Whose turn it is to be dialled; in virtual time."""

from __future__ import annotations

import asyncio
import random

from semantic_net.simulation.virtual_time import run_virtual
from semantic_net.transport.dial_turns import DialTurns


def test_who_was_dialled_in_vain_least_often_goes_first() -> None:
    async def main() -> None:
        turns = DialTurns(1, random.Random(0))
        order: list[int] = []

        async def dial(num_vain: int) -> None:
            assert await turns.take(num_vain)
            order.append(num_vain)
            await asyncio.sleep(1.0)
            turns.give_back()

        await asyncio.gather(*map(dial, (0, 3, 1, 2, 0)))
        assert order == [0, 0, 1, 2, 3]

    run_virtual(main())


def test_a_turn_is_waited_for_only_so_long_and_is_not_lost_with_who_waits() -> None:
    async def main() -> None:
        turns = DialTurns(1, random.Random(0))
        assert await turns.take(0)
        assert not await turns.take(0, longest_s=5.0)
        going = asyncio.ensure_future(turns.take(0))
        await asyncio.sleep(1.0)
        turns.give_back()  # it has its turn, and goes before it hears of that
        going.cancel()
        await asyncio.wait({going})
        assert going.cancelled()
        assert await turns.take(0, longest_s=1.0)

    run_virtual(main())


def test_after_a_burst_dials_begin_at_a_rate() -> None:
    async def main() -> None:
        turns = DialTurns(9, random.Random(0), burst=3, a_second=0.5)
        began = [0.0] * 6
        for number in range(6):
            assert await turns.take(0)
            began[number] = round(asyncio.get_running_loop().time(), 1)
            turns.give_back()
        assert [at - began[0] for at in began] == [0, 0, 0, 2, 4, 6]
        turns.close()

    run_virtual(main())
