"""What a run without peers leaves: of the classic mode's server and clients, and of one alone.

The same files as a peer's, so that everything that reads a run reads these.
"""

from __future__ import annotations

from collections.abc import Callable

from semantic_net.config import Config
from semantic_net.federated.folder import RunFolder
from semantic_net.federated.recording import add_to, summary_of
from semantic_net.monitoring.recorder import Recorder
from semantic_net.records import Role, RoundRecord
from semantic_net.task.base import Task


class PlainRecording:
    """Records round by round, and a summary at the end."""

    def __init__(
        self,
        config: Config,
        task: Task,
        folder: RunFolder,
        num_parameters: int,
        show: Callable[[RoundRecord], None],
        role: Role,
    ) -> None:
        """Begin a new record with the first round; what an earlier run left is put away then."""
        self._config, self._task, self._num_parameters = config, task, num_parameters
        self._show = show
        self._role: Role = role
        self._folder = folder
        self._recorder: Recorder | None = None
        self._totals: dict[str, float] = {}
        self._last: RoundRecord | None = None
        self._best: RoundRecord | None = None

    def record(self, record: RoundRecord) -> bool:
        """Take in a round; tell whether its model is the best so far."""
        if self._recorder is None:
            self._folder.forget()
            self._recorder = Recorder(self._folder.root)
        self._recorder.record(record)
        self._last = record
        add_to(self._totals, record)
        self._show(record)
        is_best = self._is_best(record)
        if is_best:
            self._best = record
        return is_best

    def finish(self, *, finished: bool) -> None:
        """Write the summary, if there was a round."""
        if self._last is None or self._recorder is None:
            return
        summary = summary_of(
            self._config,
            self._task,
            self._last,
            self._totals,
            finished=finished,
            best_round=self._best.round if self._best else None,
            best_metrics=self._best.metrics if self._best else {},
            num_parameters=self._num_parameters,
            role=self._role,
        )
        self._recorder.summary(summary)
        self._recorder.close()

    def _is_best(self, record: RoundRecord) -> bool:
        name = self._task.metric or next(iter(record.metrics), "")
        found = record.metrics.get(name)
        before = self._best.metrics.get(name) if self._best else None
        if found is None or before is None:
            return found is not None
        return found > before if self._task.higher_is_better else found < before
