"""What a peer's model would be without the others: the baseline of the demo, one process a peer.

    python -m semantic_net.federated.demo_local --config FILE --shard 0 --out FILE.json

Same trainer, same first weights, same data, same number of local steps as the peer; no exchange.
The model is evaluated on the validation data of all shards together, and so is, with
``--federated FILE``, the model that the peers learned together. Prints a line a round.
"""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import msgspec
from torch import nn

from semantic_net.config import Config, load_config
from semantic_net.errors import SemanticNetError, TrainingError
from semantic_net.federated.demo_figures import LocalResult
from semantic_net.federated.shards import common_validation, load_shard
from semantic_net.federated.weights import load_into, load_state_dict, write_atomically
from semantic_net.task import MapDataset, Task
from semantic_net.training import Trainer, make_initial_model


def train_alone(config: Config, task: Task, shard: int) -> tuple[Trainer, int]:
    """Train as the peer of ``shard`` does, without anyone else; return the steps taken, too."""
    model = make_initial_model(task, config.task.seed)
    trainer = Trainer(task, config.training, seed=shard, model=model)
    stop, num_steps = threading.Event(), 0
    for round_index in range(1, config.training.rounds + 1):
        try:
            num_steps += trainer.train_round(round_index, stop).num_steps
        except TrainingError as exc:  # as for a peer: this round gives nothing, the next may
            print(f"round {round_index}: {exc}", file=sys.stderr)
        print(f"round {round_index}", flush=True)
    return trainer, num_steps


def compare(config: Config, shard: int, federated: Path | None) -> LocalResult:
    """Train one shard's model alone, and evaluate it and the federated one on common ground.

    Raises:
        CheckpointError: The federated weights cannot be read, or are another model's.
    """
    task = load_shard(config, shard)
    trainer, num_steps = train_alone(config, task, shard)
    common = common_validation(config)
    local = trainer.evaluate_on(common)
    return LocalResult(
        metric=task.metric or next(iter(local), ""),
        higher_is_better=task.higher_is_better,
        local=local,
        federated=(
            _evaluate_weights(trainer.model, trainer, federated, common) if federated else None
        ),
        num_examples=len(common),
        num_steps=num_steps,
    )


def _evaluate_weights(
    model: nn.Module, trainer: Trainer, path: Path, dataset: MapDataset
) -> dict[str, float]:
    load_into(model, load_state_dict(path), str(path))
    return trainer.evaluate_on(dataset)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one baseline; return the exit code."""
    parser = argparse.ArgumentParser(prog="demo_local", description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--shard", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--federated", type=Path)
    args = parser.parse_args(argv)
    try:
        result = compare(load_config(args.config), args.shard, args.federated)
        write_atomically(args.out, lambda part: _write(part, result))
    except (SemanticNetError, OSError) as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 3
    return 0


def _write(path: Path, result: LocalResult) -> None:
    path.write_bytes(msgspec.json.encode(result))


if __name__ == "__main__":
    sys.exit(main())
