"""configs/base.yaml and the sections' defaults are equal, in both directions."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from semantic_net.config import Config, dump_config, load_config

CONFIGS = Path(__file__).parents[2] / "configs"


def dotted(tree: object, prefix: str = "") -> dict[str, object]:
    """Return every key and section of a tree, by its dotted name; ``{}`` counts as a value."""
    if not isinstance(tree, dict) or not tree:
        return {prefix: tree}
    found: dict[str, object] = {prefix: dict} if prefix else {}
    for name, value in tree.items():
        found.update(dotted(value, f"{prefix}.{name}" if prefix else name))
    return found


def test_base_yaml_names_every_key_with_its_default() -> None:
    shown = dotted(yaml.safe_load((CONFIGS / "base.yaml").read_text(encoding="utf-8")))
    built = dotted(yaml.safe_load(dump_config(Config())))
    assert list(shown.items()) == list(built.items())  # the order, too
    assert load_config(CONFIGS / "base.yaml") == Config()


def test_every_key_of_base_yaml_has_a_comment_above() -> None:
    lines = (CONFIGS / "base.yaml").read_text(encoding="utf-8").splitlines()
    bare = [
        line.strip()
        for above, line in zip(["", *lines], lines, strict=False)
        if line.strip() and not line.lstrip().startswith("#") and "#" not in above
    ]
    assert bare == []


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("task_*.yaml")), ids=lambda path: path.name)
def test_a_task_file_holds_only_differences(path: Path) -> None:
    default = dotted(yaml.safe_load(dump_config(Config())))
    given = dotted(yaml.safe_load(path.read_text(encoding="utf-8")))
    # task.name is named for the reader, whatever the default.
    repeated = [
        key
        for key, value in given.items()
        if value is not dict and key != "task.name" and default.get(key) == value
    ]
    assert repeated == []
    load_config(path)
