"""The local loop: train and evaluate one model on one device; no network."""

from semantic_net.training.state import join_state, split_state
from semantic_net.training.trainer import (
    Trainer,
    TrainingInterrupted,
    TrainResult,
    make_initial_model,
)

__all__ = [
    "TrainResult",
    "Trainer",
    "TrainingInterrupted",
    "join_state",
    "make_initial_model",
    "split_state",
]
