"""Tasks: what is learned, from which data, and how a model is judged."""

from semantic_net.status import Sample
from semantic_net.task.base import Batch, MapDataset, Prediction, Task
from semantic_net.task.loader import load_task
from semantic_net.task.metrics import accuracy, regression

__all__ = [
    "Batch",
    "MapDataset",
    "Prediction",
    "Sample",
    "Task",
    "accuracy",
    "load_task",
    "regression",
]
