"""Where simulated peers train: in this process, in a pool of processes, or in a Ray cluster.

A peer always trains in the same place, one call after the other, so its trainer's state stays
there. Whatever the place, the result is the same to the last bit.
"""

from __future__ import annotations

import contextlib
import contextvars
import importlib
import logging
import multiprocessing
import signal
import threading
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from types import TracebackType
from typing import Any, Protocol

from semantic_net.config import Config
from semantic_net.errors import ConfigError, StartError
from semantic_net.extras import needed_for
from semantic_net.simulation.worker import Worker
from semantic_net.training.trainer import TrainingInterrupted

PATIENCE_S = 5.0
"""For a process that has closed its end to be gone."""


class Place(Protocol):
    """A worker, wherever it is."""

    def call(self, method: str, *arguments: Any) -> Any:
        """Call a method of the worker, and wait for what it returns or raises."""
        ...

    def kill(self) -> None:
        """End it now, in the middle of a call too."""
        ...

    def close(self) -> None:
        """Let it end."""
        ...


class Engine:
    """Workers for all peers; to be used as a context."""

    def __init__(
        self,
        places: Sequence[Place],
        *,
        is_elsewhere: bool,
        close: Callable[[], None] = lambda: None,
    ) -> None:
        """Take the places where peers train.

        Args:
            places: One or more.
            is_elsewhere: While one of them works, this process can go on.
            close: Called when all of them have ended.
        """
        self._places = [(place, threading.Lock()) for place in places]
        self._close = close
        self._is_stopped = False
        self.is_elsewhere = is_elsewhere

    def call(self, method: str, index: int, *arguments: Any) -> Any:
        """Call a method of a peer's worker."""
        place, one_at_a_time = self._places[index % len(self._places)]
        with one_at_a_time:
            if self._is_stopped and method == "train":
                raise TrainingInterrupted("the simulation was interrupted")
            return place.call(method, index, *arguments)

    def stop(self) -> None:
        """Begin no further training; peers still leave what they have learned."""
        self._is_stopped = True

    def kill(self) -> None:
        """End all workers now: nobody wants anything of them any more."""
        for place, _ in self._places:
            place.kill()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.ExitStack() as stack:  # all of them, even where one cannot
            stack.callback(self._close)
            for place, _ in self._places:
                stack.callback(place.close)


class _Here:
    """A worker in this process."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def call(self, method: str, *arguments: Any) -> Any:
        return getattr(self._worker, method)(*arguments)

    def kill(self) -> None:
        pass

    def close(self) -> None:
        pass


class _InProcess:
    """A worker in a process of its own, forked from this one, whose data it shares."""

    def __init__(self, worker: Worker, earlier: Sequence[_InProcess]) -> None:
        context = multiprocessing.get_context("fork")
        self._connection, theirs = context.Pipe()
        # Forked as well, and held open they would keep a worker waiting for us when we are gone.
        ours = [self._connection, *(place._connection for place in earlier)]
        self._process = context.Process(target=_serve, args=(worker, theirs, ours), daemon=True)
        self._process.start()
        theirs.close()

    def call(self, method: str, *arguments: Any) -> Any:
        try:
            self._connection.send((method, arguments))
            is_done, found, trace = self._connection.recv()
        except (EOFError, OSError) as exc:
            raise self._gone() from exc
        except KeyboardInterrupt:
            self._connection.close()  # its answer is not that of the next call
            raise
        if not is_done:
            raise found from ThereError(trace)
        return found

    def kill(self) -> None:
        self._process.terminate()
        self._process.join()

    def close(self) -> None:
        self._connection.close()
        self._process.join()

    def _gone(self) -> StartError:
        self._process.join(PATIENCE_S)
        code = self._process.exitcode
        return StartError(
            f"--engine local: a process that trains has ended (exit code {code}); "
            "with -9 memory may have run out: set --workers lower"
        )


class ThereError(Exception):
    """Where in another process something was raised, for whoever looks for a fault in a task."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def _serve(worker: Worker, connection: Connection, inherited: Sequence[Connection]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that began this one ends it ...
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for each in inherited:
        each.close()
    with contextlib.suppress(EOFError, OSError):  # ... or is gone itself
        while True:
            method, arguments = connection.recv()
            try:
                answer = True, getattr(worker, method)(*arguments), ""
            except Exception as exc:  # whatever it is, who called gets it
                answer = False, sendable(exc), traceback.format_exc()
            connection.send(answer)


def sendable(error: Exception) -> Exception:
    """Return an error as it is, or what it says, if its class does not survive the way."""
    try:
        ForkingPickler.loads(ForkingPickler.dumps(error))
    except Exception:
        return StartError(f"{type(error).__name__}: {error}")
    return error


class _OnRay:
    """A worker that Ray has put somewhere."""

    def __init__(self, ray: Any, config: Config) -> None:
        self._ray = ray
        self._actor = ray.remote(Worker).options(num_cpus=1).remote(config)

    def call(self, method: str, *arguments: Any) -> Any:
        errors = self._ray.exceptions
        try:
            return self._ray.get(getattr(self._actor, method).remote(*arguments))
        except errors.RayTaskError as exc:
            raise exc.cause from exc
        except errors.RayError as exc:
            raise StartError(f"--engine ray: {_one_line(exc)}") from exc

    def kill(self) -> None:
        self._ray.kill(self._actor)

    def close(self) -> None:
        self.kill()


def local_engine(config: Config, num_workers: int) -> Engine:
    """Return an engine of this machine: of this process alone, or of several more.

    Args:
        config: Of the peers.
        num_workers: Processes; 1 takes this one.
    """
    worker = Worker(config)
    if num_workers == 1:
        return Engine([_Here(worker)], is_elsewhere=False)
    worker.num_examples(0)  # what the task keeps of its data, all processes share then
    places: list[_InProcess] = []
    for _ in range(num_workers):
        places.append(_InProcess(worker, places))
    return Engine(places, is_elsewhere=True)


def ray_engine(config: Config, num_workers: int) -> Engine:
    """Return an engine of a Ray cluster: the one that ``RAY_ADDRESS`` names, or this machine.

    Args:
        config: Of the peers; what it names has to be there on all machines.
        num_workers: Actors, of one core each.

    Raises:
        ConfigError: The extra is not installed, Ray does not start, or has too few cores.
    """
    with needed_for("--engine ray", "simulation"):
        ray: Any = importlib.import_module("ray")  # typed or not, as it is there or not
    is_ours = not ray.is_initialized()
    if is_ours:
        try:
            # Started like this, Ray tells nobody of its use.
            ray.init(log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
        except (RuntimeError, ValueError, OSError, ray.exceptions.RayError) as exc:
            raise ConfigError(f"--engine ray: {_one_line(exc)}") from exc
    close = ray.shutdown if is_ours else lambda: None
    num_cores = int(ray.cluster_resources().get("CPU", 0))
    if num_cores < num_workers:  # they would be waited for without end
        close()
        raise ConfigError(f"--workers {num_workers}: the Ray cluster has {num_cores} cores")
    places = [_OnRay(ray, config) for _ in range(num_workers)]
    return Engine(places, is_elsewhere=True, close=close)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


class Jobs:
    """Lets a piece of a peer's work go on elsewhere, while the clock of the simulation goes on.

    The work runs in a thread of its own, but never beside the simulation: whoever begins it waits
    until it is done, or only waits for a worker. So all that it does to a peer happens at the
    moment of the simulation in which it was begun, however fast the workers are.
    """

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(max_workers=256, thread_name_prefix="peer")
        self._current = threading.local()

    def begin(self, work: Any) -> Future[Any]:
        """Start a piece of work; return when it is done or waits for a worker."""
        waits = threading.Event()

        def run() -> Any:
            self._current.waits = waits
            try:
                return work()
            finally:
                waits.set()

        future = self._threads.submit(contextvars.copy_context().run, run)  # it is its peer's
        waits.wait()
        return future

    def waits_for_worker(self) -> None:
        """Say so, from within the work: the simulation may go on."""
        waits = getattr(self._current, "waits", None)
        if waits is not None:
            waits.set()

    def close(self) -> None:
        """Wait for what is under way."""
        self._threads.shutdown(wait=True)
