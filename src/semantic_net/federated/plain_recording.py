"""What a run without peers leaves: of the classic mode's server and clients, and of one alone.

The same files as a peer's, so that everything that reads a run reads these.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from torch import nn

from semantic_net.config import Config
from semantic_net.federated.folder import RunFolder
from semantic_net.federated.recording import add_to, summary_of
from semantic_net.federated.weights import save_state_dict
from semantic_net.monitoring.recorder import Recorder
from semantic_net.monitoring.tracking import Tracker
from semantic_net.records import Role, RoundRecord
from semantic_net.semantic.schema import ModelSchema
from semantic_net.task.base import Task

log = logging.getLogger(__name__)


class PlainRecording:
    """Records round by round, and a summary at the end."""

    def __init__(
        self,
        config: Config,
        task: Task,
        model: nn.Module,
        folder: RunFolder,
        show: Callable[[RoundRecord], None],
        role: Role,
    ) -> None:
        """Begin a new record with the first round; what an earlier run left is put away then.

        Args:
            config: As resolved.
            task: Names the main metric.
            model: What is left as the run's model after each round.
            folder: Where it all goes.
            show: Gets each record, too.
            role: What kind of a process this is.

        Raises:
            ConfigError: TensorBoard is asked for and not installed.
        """
        self._config, self._task, self._model = config, task, model
        self._show = show
        self._role: Role = role
        self._folder = folder
        self._recorder: Recorder | None = None
        self._tracker = Tracker(folder.tensorboard) if config.monitoring.tensorboard else None
        self._totals: dict[str, float] = {}
        self._last: RoundRecord | None = None
        self._best: RoundRecord | None = None

    def record(self, record: RoundRecord) -> None:
        """Take in a round, and leave the model that it has come to."""
        if self._recorder is None:
            self._folder.forget()
            self._recorder = Recorder(self._folder.root)
            if self._tracker is not None:
                self._tracker.start()
        self._recorder.record(record)
        if self._tracker is not None:
            self._tracker.record(record)
        self._last = record
        add_to(self._totals, record)
        self._show(record)
        self._leave_model(self._folder.model)
        if self._is_best(record):
            self._best = record
            self._leave_model(self._folder.best_model)

    def finish(self, *, finished: bool) -> None:
        """Write the summary, if there was a round."""
        if self._last is None or self._recorder is None:
            return
        summary = summary_of(
            self._config,
            self._last,
            self._totals,
            metric=self._task.metric,
            higher_is_better=self._task.higher_is_better,
            finished=finished,
            best_round=self._best.round if self._best else None,
            best_metrics=self._best.metrics if self._best else {},
            num_parameters=ModelSchema.of(self._model).num_parameters,
            role=self._role,
        )
        self._recorder.summary(summary)
        self._recorder.close()
        if self._tracker is not None:
            self._tracker.close()

    def _leave_model(self, path: Path) -> None:
        metadata = {"task": self._config.task.name, "run": self._config.p2p.run}
        try:
            save_state_dict(path, self._model.state_dict(), metadata)
        except OSError as exc:
            log.warning("%s cannot be written, the run goes on: %s", path, exc.strerror or exc)

    def _is_best(self, record: RoundRecord) -> bool:
        name = self._task.metric or next(iter(record.metrics), "")
        found = record.metrics.get(name)
        before = self._best.metrics.get(name) if self._best else None
        if found is None or before is None:
            return found is not None
        return found > before if self._task.higher_is_better else found < before
