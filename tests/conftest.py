"""Settings of all tests."""

import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import settings

try:
    from coverage import Coverage
except ImportError:  # in `make compat`
    Coverage = None  # type: ignore[assignment, misc]

# Several tests run at once, with several processes each: more threads would be in each other's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A busy machine is no failure; what must not hang has limits of its own.
settings.register_profile("default-here", deadline=None)
settings.load_profile("default-here")

# Where the tests run without all that development needs, as in `make compat`.
collect_ignore = [] if find_spec("selenium") and find_spec("axe_core_python") else ["page"]


@pytest.fixture(scope="session", autouse=True)
def device_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep the tests, and the processes that they start, away from this device's own key."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(os.environ, "SEMANTIC_NET_HOME", str(home))
        patch.setitem(os.environ, "FLWR_TELEMETRY_ENABLED", "0")  # what the commands see to
        yield home


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Let each worker begin with what takes long: in the end all would wait for it.

    Of what is collected each of n workers has an n-th first, one after the other.
    """
    num_workers = getattr(config, "workerinput", {"workercount": 1})["workercount"]
    long = [item for item in items if _is_unmeasured(item)]
    short = [item for item in items if not _is_unmeasured(item)]
    items.clear()
    for worker in range(num_workers):
        own = slice(worker * len(short) // num_workers, (worker + 1) * len(short) // num_workers)
        items += [*long[worker::num_workers], *short[own]]


def _is_unmeasured(item: pytest.Item) -> bool:
    """Tell whether it takes long, and most of that if coverage is measured: all with processes."""
    return item.get_closest_marker("unmeasured") is not None or "e2e" in item.path.parts


@pytest.fixture(autouse=True)
def _measured(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Measure no coverage in tests that take long, nor in processes that they start."""
    running = None if Coverage is None else Coverage.current()
    if running is None or not _is_unmeasured(request.node):
        yield
        return
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)
    running.stop()
    try:
        yield
    finally:
        patches = running.get_option("run:patch")
        running.set_option("run:patch", [])  # they are there already, and would be there twice
        running.start()
        running.set_option("run:patch", patches)
