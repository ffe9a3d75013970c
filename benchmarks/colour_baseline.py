"""How much of the synthetic disaster scenes can be told from the colour of single pixels.

    python benchmarks/colour_baseline.py --seed 0

Trains the U-Net and a network that sees one pixel at a time on the same tiles of three regions,
equally long and with the same loss, and counts a histogram of colours for each class over all of
those scenes. Prints the mIoU of each on the regions' validation scenes; exits with 1 where the
U-Net leads by less than 15 points, since the scenes would then not ask for shape and context.
"""

from __future__ import annotations

import argparse
import threading

import torch
from torch import Tensor, nn

from semantic_net.config import DataConfig, PartitionConfig, TaskConfig, TrainingConfig
from semantic_net.task.base import MapDataset, Task
from semantic_net.task.disaster import load
from semantic_net.task.disaster.classes import IGNORE
from semantic_net.task.disaster.tiles import MEAN, SPREAD
from semantic_net.training.trainer import Trainer, make_initial_model

WANTED_LEAD = 15.0
BINS = 16
"""Of each channel in the histogram."""


class ColourTable(nn.Module):
    """Scores that depend on a pixel's colour alone: a table with BINS^3 rows."""

    def __init__(self, counts: Tensor, balance: float) -> None:
        """Make the scores.

        Args:
            counts: (BINS^3, C) pixels of each class by colour.
            balance: 0 scores by how often a class has the colour, 1 as if all were as frequent.
        """
        super().__init__()
        smooth = counts + 0.1
        self.register_buffer("table", smooth / counts.sum(dim=0).clamp(min=1) ** balance)

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.get_buffer("table")[colour_bins(images)]
        return scores.permute(0, 3, 1, 2)


def colour_bins(images: Tensor) -> Tensor:
    """Return the row of the table for each pixel of (N, 3, H, W) images in normalised units."""
    levels = ((images * SPREAD + MEAN) * BINS).long().clamp(0, BINS - 1)
    rows: Tensor = (levels[:, 0] * BINS + levels[:, 1]) * BINS + levels[:, 2]
    return rows


def count_colours(data: MapDataset, num_classes: int) -> Tensor:
    """Return how many pixels of each class (columns) have each colour (rows)."""
    counts = torch.zeros(BINS**3 * num_classes)
    for index in range(len(data)):
        image, target = data[index]
        cells = colour_bins(image[None])[0] * num_classes + target
        counts += torch.bincount(cells[target != IGNORE], minlength=len(counts))
    return counts.reshape(-1, num_classes)


def pixel_network(num_classes: int) -> nn.Module:
    """Return a network whose every output depends on the pixel at its place alone."""
    return nn.Sequential(
        nn.Conv2d(3, 64, kernel_size=1),
        nn.ReLU(),
        nn.Conv2d(64, 64, kernel_size=1),
        nn.ReLU(),
        nn.Conv2d(64, num_classes, kernel_size=1),
    )


def score(
    task: Task, model: nn.Module | None, cfg: TrainingConfig, seed: int, rounds: int
) -> float:
    """Train a model (None: the task's own) and return its mIoU in percent."""
    trainer = Trainer(task, cfg, seed=seed, model=model)
    for round_index in range(1, rounds + 1):
        trainer.train_round(round_index, threading.Event())
    return 100 * trainer.evaluate()["miou"]


def main() -> int:
    parser = argparse.ArgumentParser(description="U-Net against per-pixel colour classifiers")
    parser.add_argument("--seed", type=int, default=0, help="of scenes, weights and batch order")
    parser.add_argument("--regions", type=int, default=3)
    parser.add_argument("--scenes", type=int, default=96, help="training scenes a region")
    parser.add_argument("--rounds", type=int, default=30, help="of 20 steps each")
    args = parser.parse_args()

    partition = PartitionConfig(num_shards=args.regions)
    data = DataConfig(num_train=args.scenes, seed=args.seed, partition=partition)
    task = load(TaskConfig(seed=args.seed, data=data))
    cfg = TrainingConfig(
        rounds=args.rounds,
        steps=20,
        batch_size=8,
        learning_rate=0.004,
        schedule="cosine",
        seed=args.seed,
        device="cpu",
        num_threads=1,
    )
    unet = make_initial_model(task, args.seed)
    num_classes = unet(task.val_data[0][0][None]).shape[1]
    torch.manual_seed(args.seed)
    counts = count_colours(task.train_data, num_classes)
    tables = [ColourTable(counts, balance) for balance in (0.0, 0.25, 0.5, 0.75, 1.0)]
    results = {
        "U-Net": score(task, unet, cfg, args.seed, args.rounds),
        "one pixel, network": score(task, pixel_network(num_classes), cfg, args.seed, args.rounds),
        # The best of several on the validation scenes themselves: more than a fair chance.
        "one pixel, histogram": max(
            100 * task.metrics(table, _batches(task.val_data), torch.device("cpu"))["miou"]
            for table in tables
        ),
    }
    print(
        f"seed {args.seed}, {args.regions} regions, {args.rounds} x 20 steps of 8 tiles; mIoU in %"
    )
    for name, miou in results.items():
        print(f"{name:22s}{miou:6.1f}")
    lead = results["U-Net"] - max(miou for name, miou in results.items() if name != "U-Net")
    print(f"{'lead of the U-Net':22s}{lead:6.1f}  (at least {WANTED_LEAD:.0f} wanted)")
    return 0 if lead >= WANTED_LEAD else 1


def _batches(data: MapDataset) -> list[tuple[Tensor, Tensor]]:
    batches = []
    for index in range(len(data)):
        image, target = data[index]
        batches.append((image[None], target[None]))
    return batches


if __name__ == "__main__":
    raise SystemExit(main())
