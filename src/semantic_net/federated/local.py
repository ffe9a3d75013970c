"""One device's part of a round: training from the model that all share, and the encoded update.

Peers and the Flower client drive the same: what differs is where the shared model comes from. The
model's parameters are only ever two things: the shared model, which is what is evaluated, or that
and some of what this device has learned and not sent, which is where its training goes on from
(docs/decisions/0007).
"""

from __future__ import annotations

import threading

import numpy as np
import torch
from torch import Tensor

from semantic_net.buffers import trim_heap
from semantic_net.errors import TrainingError
from semantic_net.federated.parts import Encoded, LearningStoppedError, Trained
from semantic_net.fixed_point import Float32Array
from semantic_net.semantic.codec import Codec
from semantic_net.semantic.decoder import ParsedDelta
from semantic_net.semantic.encoder import encode
from semantic_net.semantic.flat import flatten, load_flat
from semantic_net.semantic.schema import ModelSchema
from semantic_net.training.trainer import Trainer, TrainingInterrupted

REACH = 0.5
"""How far from the shared model a round's training may begin, along the residual: in lengths of
what the training before has changed."""

LARGE_BYTES = 8 << 20
"""Float32 size from which on a model is folded in place, with few states of the past, on disk."""


class LocalLearner:
    """Trains one torch model from what is shared, and encodes what has changed."""

    reach = REACH

    def __init__(self, trainer: Trainer) -> None:
        """Take the trainer; what is shared is not known yet."""
        self.trainer = trainer
        self.schema = ModelSchema.of(trainer.model)
        self.residual: Tensor | None = None
        """(schema.size,) float32: what the own updates left over; None for nothing."""
        self.changed_norm = 0.0
        """Length of what the last training has changed, of the parameters; 0 before the first."""
        self._trained_from: Tensor | None = None
        """What of the residual was in the model when training began."""
        self._set_aside: Tensor | None = None
        """(schema.size,) float32: what was trained ahead of the fold."""
        self._stop = threading.Event()
        self._view: Float32Array = np.empty(self.schema.size, np.float32)
        self._reference = torch.from_numpy(self._view)

    def train(self, round_index: int, *, is_ahead: bool = False) -> Trained:
        """Train for a round.

        Args:
            round_index: From 1.
            is_ahead: The round before is not folded yet: go on from what it has trained, and set
                aside what changes. The delta is then one fold stale.

        Raises:
            TrainingError: No update can come of it.
            LearningStoppedError: ``stop`` was called.
        """
        before = None
        if is_ahead:
            before = flatten(self.trainer.model)
        else:
            self._trained_from = self._within_reach()
            if self._trained_from is not None:
                self._load_vector(self._reference + self._trained_from)
        try:
            result = self.trainer.train_round(round_index, self._stop)
        except TrainingInterrupted as exc:
            raise LearningStoppedError(str(exc)) from exc
        except TrainingError:
            self._trained_from = None  # as large as the model
            raise
        if before is not None:
            self._set_aside = flatten(self.trainer.model).sub_(before)
        self._trim()
        return Trained(result.loss, result.num_examples, result.notes, result.epsilon)

    def encode(self, codec: Codec, max_bytes: int | None = None) -> Encoded:
        """Encode what training changed and the residual; what is left is the new residual.

        Args:
            codec: Mode and strength.
            max_bytes: Most that the payload should take, for which less may be kept.

        Raises:
            TrainingError: Training has left the finite numbers.
        """
        total, self._set_aside = self._set_aside, None
        if total is None:
            total = flatten(self.trainer.model).sub_(self._reference)
            if self._trained_from is not None:
                total -= self._trained_from
                self._trained_from = None  # as large as the model
        else:
            # What comes next is trained from there, as if the fold had come first.
            self._load_vector(self._reference + total)
        parameters = total[: self.schema.num_parameters]
        # Finite entries have a finite length in float64, whatever they are.
        changed_norm = float(torch.linalg.vector_norm(parameters, dtype=torch.float64))
        if self.residual is not None:
            total += self.residual
        encoded = encode(total, self.schema, codec, max_bytes=max_bytes, overwrite=True)
        self.residual, self.changed_norm = encoded.residual, changed_norm
        del total
        self._trim()
        return Encoded(encoded.codec, encoded.payload, self.schema.dense_bytes, encoded.kept_ratio)

    def evaluate(self) -> dict[str, float]:
        """Return the validation metrics of the model.

        Raises:
            TrainingError: It does not fit into memory.
        """
        return self.trainer.evaluate()

    def restore(self) -> None:
        """Load the model with what is shared again: without what training has changed since."""
        load_flat(self.trainer.model, self._view)

    def stop(self) -> None:
        """Make a running ``train`` end early."""
        self._stop.set()

    def _within_reach(self) -> Tensor | None:
        """Return what of the residual training begins with; None for nothing."""
        if self.residual is None:
            return None
        length = float(torch.linalg.vector_norm(self.residual, dtype=torch.float64))
        limit = self.reach * self.changed_norm if self.changed_norm else 0.0
        if limit == 0:
            return None
        return self.residual.clone() if length <= limit else self.residual * (limit / length)

    def share(self, values: Float32Array) -> None:
        """Take what is shared from now on, (schema.size,), and load the model with it."""
        self._view[:] = values
        self.schema.keep_bounds(self._view)
        self._load_view()

    def give_back(self, parsed: ParsedDelta) -> None:
        """Add to the residual what an update carried that does not count."""
        carried = self._carried(parsed)
        self.residual = carried if self.residual is None else self.residual + carried

    def _carried(self, parsed: ParsedDelta) -> Tensor:
        carried = torch.from_numpy(parsed.to_float32()).to(self.trainer.device)
        carried[self.schema.num_parameters :] = 0  # buffers are sent anew each round
        return carried

    def _load_view(self) -> None:
        """Load the model with what is shared, after the view was written to."""
        load_flat(self.trainer.model, self._view)
        # On the CPU this is the view itself, and no copy of it.
        self._reference = torch.from_numpy(self._view).to(self.trainer.device)

    def _load_vector(self, flat: Tensor) -> None:
        load_flat(self.trainer.model, flat.cpu().numpy())

    def _trim(self) -> None:
        # What training took and let go of would stay on the heap, beside the buffers of the
        # exchange; taking it anew each round costs less than a training step.
        if self._is_large:
            trim_heap()

    @property
    def _is_large(self) -> bool:
        return self.schema.dense_bytes >= LARGE_BYTES
