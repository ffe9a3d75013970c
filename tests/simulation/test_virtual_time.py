"""Virtual time jumps, agrees with itself, and never hangs."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import AsyncIterator

import pytest

from semantic_net.simulation.virtual_time import DeadlockError, VirtualTimeLoop, run_virtual


def now() -> float:
    return asyncio.get_running_loop().time()


def test_a_long_sleep_takes_no_time() -> None:
    async def main() -> float:
        await asyncio.sleep(1e6)
        return now()

    began = time.perf_counter()
    assert run_virtual(main()) == pytest.approx(1e6)
    assert time.perf_counter() - began < 5.0


def test_timers_fire_in_order_whatever_the_order_they_were_set_in() -> None:
    async def main() -> list[float]:
        seen: list[float] = []
        for delay_s in (3.0, 1.0, 2.0, 0.5):
            asyncio.get_running_loop().call_later(delay_s, lambda: seen.append(now()))
        await asyncio.sleep(10.0)
        return seen

    assert run_virtual(main()) == pytest.approx([0.5, 1.0, 2.0, 3.0])


def test_a_timer_is_never_early_and_time_always_moves() -> None:
    async def main() -> None:
        await asyncio.sleep(1e9)  # where a float's step is over 1e-7
        for _ in range(100):
            due = now() + 1e-9
            await asyncio.sleep(1e-9)
            assert now() >= due

    run_virtual(main())


def test_timeouts_are_in_virtual_time() -> None:
    async def main() -> float:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.get_running_loop().create_future(), 3600.0)
        return now()

    assert run_virtual(main()) == pytest.approx(3600.0)


def test_two_runs_are_alike() -> None:
    async def main() -> list[tuple[str, float]]:
        seen: list[tuple[str, float]] = []

        async def tick(name: str, step_s: float) -> None:
            for _ in range(20):
                await asyncio.sleep(step_s)
                seen.append((name, now()))

        await asyncio.gather(tick("a", 0.1), tick("b", 0.1), tick("c", 0.07))
        return seen

    assert run_virtual(main()) == run_virtual(main())


def test_a_deadlock_is_an_error_that_names_who_waits() -> None:
    async def main() -> None:
        asyncio.current_task().set_name("stuck")  # type: ignore[union-attr]  # we are in one
        await asyncio.Event().wait()

    with pytest.raises(DeadlockError, match="nothing is scheduled; waiting: stuck"):
        run_virtual(main())


def test_what_is_left_is_cancelled_and_closed() -> None:
    seen: list[str] = []

    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            seen.append("generator closed")

    async def background() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            seen.append("task cancelled")

    async def main() -> str:
        task = asyncio.get_running_loop().create_task(background())
        await asyncio.sleep(1.0)
        assert not task.done()
        async for _ in numbers():
            return "done"
        return "never"

    assert run_virtual(main()) == "done"
    assert sorted(seen) == ["generator closed", "task cancelled"]


def test_errors_come_out() -> None:
    async def main() -> None:
        raise KeyError("ours")

    with pytest.raises(KeyError, match="ours"):
        run_virtual(main())


def test_threads_are_refused_by_name() -> None:
    async def main() -> None:
        await asyncio.get_running_loop().run_in_executor(None, time.sleep, 0)

    with pytest.raises(RuntimeError, match="runs no threads"):
        run_virtual(main())


def test_calls_from_other_threads_are_refused() -> None:
    loop = VirtualTimeLoop()
    caught: list[str] = []

    def call() -> None:
        try:
            loop.call_soon_threadsafe(print)
        except RuntimeError as exc:
            caught.append(str(exc))

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    loop.close()
    assert len(caught) == 1
    assert "runs no threads" in caught[0]


def test_a_threadsafe_call_from_the_own_thread_is_one() -> None:
    async def main() -> bool:
        event = asyncio.Event()
        asyncio.get_running_loop().call_soon_threadsafe(event.set)
        return await event.wait()

    assert run_virtual(main())


def test_an_interruption_waits_for_the_callback_that_it_falls_into() -> None:
    seen: list[str] = []

    async def peer() -> None:
        try:
            signal.raise_signal(signal.SIGINT)
            seen.append("through")
            await asyncio.sleep(1.0)
            seen.append("after")
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    async def main() -> None:
        await asyncio.gather(peer(), asyncio.sleep(1e6))

    with pytest.raises(KeyboardInterrupt):
        run_virtual(main())
    assert seen == ["through", "cancelled"]


def test_an_interruption_ends_long_work_at_once() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        with loop.long_work():
            signal.raise_signal(signal.SIGINT)
            pytest.fail("it goes on")

    with pytest.raises(KeyboardInterrupt):
        run_virtual(main())


@pytest.mark.parametrize("finishes", [True, False], ids=["done", "cleaning up"])
def test_an_interruption_that_comes_late_leaves_nothing_half_done(finishes: bool) -> None:
    loop = VirtualTimeLoop()
    ended = False

    async def other() -> None:
        nonlocal ended
        try:
            await asyncio.sleep(1e6)
        finally:
            if not finishes:
                signal.raise_signal(signal.SIGINT)
            await asyncio.sleep(1.0)
            ended = True

    async def main() -> None:
        asyncio.get_running_loop().other = asyncio.ensure_future(other())  # type: ignore[attr-defined]
        await asyncio.sleep(1.0)
        if finishes:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run_virtual(main(), loop)
    assert ended
    assert loop.is_closed()


def test_signals_that_interrupt_nobody_are_left_alone() -> None:
    caught: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: caught.append(number))
    mine = signal.getsignal(signal.SIGTERM)

    async def main() -> str:
        signal.raise_signal(signal.SIGTERM)
        return "done"

    try:
        assert run_virtual(main()) == "done"
        assert caught == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)
