"""Seeded disasters, and what must hold after each: the promises of the protocol, checked.

`disturbed` lets crashes, restarts, partitions, slow links, repeated messages, late joiners and a
second instance of a key play out, mends the network, and lets it fall quiet; in `revoked` one
device is put out meanwhile, by some of those that it knows, and in `in_mesh` each peer finds those
that it talks to by itself. `undisturbed` runs
peers on a sound network to their last round, one of them late or early perhaps. Each returns what
is broken, in words; nothing if all is well. A seed names one world, to the last byte.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from semantic_net.protocol import update_set
from semantic_net.protocol.identity import PeerId
from semantic_net.protocol.membership import Membership, Standing
from semantic_net.protocol.update import MAX_ROUND, Update
from semantic_net.protocol.update_set import UpdateSet
from semantic_net.simulation.node import Closed, Node, NodeConfig
from semantic_net.simulation.world import LinkConfig, World

TROUBLE_S = 60.0
SETTLE_S = 12.0
"""How long the network is sound before nothing may wait for a deadline any more."""
TOGETHER_S = 25.0
QUIET_S = 35.0
FOREVER_S = 1e9
SOUND_LIMIT_S = 20.0
LONGEST_WAIT_S = 4.0
"""On a sound network where all are neighbours: training takes from 0.5 to 3 s, the rest little."""
SLOW_CHUNK_S = (1.2, 2.0)
"""Longer than a heartbeat."""

Links = list[tuple[str, str]]


def full(names: Sequence[str]) -> Links:
    """Everyone to everyone."""
    return list(itertools.combinations(names, 2))


def line(names: Sequence[str]) -> Links:
    """Each to the next."""
    return list(itertools.pairwise(names))


def ring(names: Sequence[str]) -> Links:
    """Each to the next, and the last to the first."""
    return line([*names, names[0]]) if len(names) > 2 else line(names)


def star(names: Sequence[str]) -> Links:
    """Everyone to the first."""
    return [(names[0], name) for name in names[1:]]


TOPOLOGIES: tuple[Callable[[Sequence[str]], Links], ...] = (full, full, full, line, ring, star)


def disturbed(seed: int) -> list[str]:
    """Play a disaster; return what does not hold once the network has been sound for a while."""
    return check_settled(play_disturbed(seed))


@dataclass(frozen=True, slots=True)
class Settled:
    """A world that was made sound, and has fallen quiet."""

    world: World
    held: tuple[Update, ...]
    """What live peers held when it was made sound."""
    sound_from: float
    """When that was."""


def in_turns(seed: int) -> list[str]:
    """Play a disaster among peers that train in turns; return what does not hold after it."""
    return check_settled(play_disturbed(seed, in_turns=True))


def in_mesh(seed: int) -> list[str]:
    """Play a disaster in a mesh that organises itself; return what does not hold after it."""
    settled = play_in_mesh(seed)
    return [*check_settled(settled), *_check_mesh(settled.world)]


def play_in_mesh(seed: int) -> Settled:
    """Play a disaster to its quiet end, in which each peer is told of one or two others."""
    script = random.Random(seed)  # reproducible, not secret  # nosec B311
    names = "abcdefghijklmnop"[: script.randrange(4, 17)]
    links = script.randrange(2, 5)
    world = World(
        names,
        NodeConfig(
            rounds=10_000,
            listen_timeout_s=8.0,
            settle_s=5.0,
            base_every=script.choice([2, 4, 8]),
            turn_period=script.choice([1, 3]),
            mesh_links=links,
        ),
        seed,
        link=LinkConfig(repeat_share=script.choice([0.0, 0.0, 0.1])),
    )
    for number, name in enumerate(names):
        told = {names[0], names[max(number - 1, 0)]} if script.random() < 0.5 else {names[0]}
        world.nodes[name].seeds = tuple(sorted(told - {name}))
        world.after(script.uniform(0, 20), world.nodes[name].start)
    for _ in range(script.randrange(3, 12)):
        world.after(script.uniform(1, TROUBLE_S), _mishap(world, script))
    world.run(until=TROUBLE_S)
    return settle(world)


def _check_mesh(world: World) -> list[str]:
    """Return what does not hold of the links of a mesh that has been sound for a while."""
    graph = world.neighbours()
    broken = []
    for name, others in graph.items():
        wanted = world.nodes[name].cfg.mesh_links or 0
        least = min(wanted, len(graph) - 1)
        if not least <= len(others) <= 2 * wanted:
            broken.append(f"{name} has {len(others)} links")
    reached = {next(iter(graph))}
    while more := {other for name in reached for other in graph[name]} - reached:
        reached |= more
    if len(reached) < len(graph):
        broken.append(f"{len(reached)} of {len(graph)} peers are connected")
    return broken


def play_disturbed(seed: int, *, in_turns: bool = False) -> Settled:
    """Play a disaster to its quiet end."""
    script = random.Random(seed)  # reproducible, not secret  # nosec B311
    names = "abcdef"[: script.randrange(3, 7)]
    if in_turns:
        names = "abcdefghijkl"[: script.randrange(4, 13)]
    links = script.choice(TOPOLOGIES)(names)
    has_twin = links == full(names) and len(names) > 3 and script.random() < 0.25
    if has_twin:
        links.remove(("a", "b"))
    world = World(
        names,
        NodeConfig(
            rounds=10_000,
            listen_timeout_s=8.0,
            base_every=script.choice([1, 2, 4, 8]),
            budget_bytes=script.choice([None, None, 200, 1000]),
            overlaps=script.random() < 0.3,
            turn_period=script.randrange(2, 5) if in_turns else 1,
        ),
        seed,
        link=LinkConfig(repeat_share=script.choice([0.0, 0.0, 0.1])),
        links=links,
        keys={"b": "a"} if has_twin else {},
    )
    if script.random() < 0.3:
        world.slow[frozenset(script.choice(links))] = SLOW_CHUNK_S
    if script.random() < 0.3:
        world.nodes[script.choice(names)].is_given = True
    if len(names) > 3 and script.random() < 0.2:
        observer = world.nodes[names[-1]]
        observer.cfg = replace(observer.cfg, observes=True)
    for node in world.nodes.values():
        world.after(script.uniform(0, 20), node.start)
    for _ in range(script.randrange(3, 12)):
        world.after(script.uniform(1, TROUBLE_S), _mishap(world, script))
    world.run(until=TROUBLE_S)
    if has_twin:  # somebody notices, and stops one of the two
        world.retire("b")
        world.nodes["a"].crash()
    return settle(world)


def revoked(seed: int) -> list[str]:
    """Play a disaster in which devices revoke one of them; return what does not hold after it."""
    script = random.Random(seed)  # reproducible, not secret  # nosec B311
    names = "abcdef"[: script.randrange(4, 7)]
    links = script.choice(TOPOLOGIES)(names)
    max_liars = script.choice([0, 0, 1])
    world = World(
        names,
        NodeConfig(
            rounds=10_000,
            listen_timeout_s=8.0,
            base_every=script.choice([2, 4, 8]),
            max_liars=max_liars,
        ),
        seed,
        link=LinkConfig(repeat_share=script.choice([0.0, 0.0, 0.1])),
        links=links,
    )
    # Who can call each other trust each other. Where some may lie that is not enough to know
    # the others by: there everybody has the same trust file.
    for one, other in itertools.permutations(world.nodes.values(), 2):
        if max_liars or frozenset((one.name, other.name)) in world.links:
            one.standing[other.device.peer_id] = Standing(lets_in=True, name=other.name)
    if max_liars:  # nobody takes over what one alone starts from
        for node in world.nodes.values():
            node.origin = world.nodes["a"].origin
    # The last of a line, a ring or a star: the others reach each other without it.
    liar = world.nodes[names[-1]]
    knowing = [n for n in world.nodes.values() if liar.device.peer_id in n.standing]
    revoking = script.sample(knowing, script.randrange(max_liars + 1, len(knowing) + 1))
    for node in world.nodes.values():
        world.after(script.uniform(0, 20), node.start)
    for _ in range(script.randrange(2, 8)):
        world.after(script.uniform(1, TROUBLE_S), _mishap(world, script))
    void_from = script.choice([None, 1, 2, 3])
    for node in revoking:
        world.after(script.uniform(15, TROUBLE_S), _revocation(world, node, liar, void_from))
    world.run(until=TROUBLE_S)
    world.retire(liar.name)
    settled = settle(world)
    device = liar.device.peer_id
    honest = tuple(u for u in settled.held if not _is_by(world, u, device))
    return [
        *check_settled(replace(settled, held=honest)),
        *_check_revoked(world, device),
    ]


def _revocation(world: World, node: Node, liar: Node, void_from: int | None) -> Callable[[], None]:
    def revoke() -> None:
        standing = Standing(lets_in=False, void_from=void_from, name=liar.name)
        node.set_standing(liar.device.peer_id, standing)
        world.cut(node.name, liar.name)  # as TLS does

    return revoke


def _is_by(world: World, update: Update, device: PeerId) -> bool:
    return any(_membership(n).device_of(update.author) == device for n in world.nodes.values())


def _check_revoked(world: World, device: PeerId) -> list[str]:
    """Return what does not hold of the membership, where a device was put out."""
    rounds: dict[PeerId, set[int]] = {}
    for node in world.nodes.values():
        membership = _membership(node)
        for author in {u.author for other in world.nodes.values() for u in other.running.updates}:
            if membership.device_of(author) == device:
                rounds.setdefault(author, set()).add(membership.out_from(author))
    return [
        f"{author} counts up to the rounds {sorted(found)}"
        for author, found in rounds.items()
        if len(found) > 1 or max(found) > MAX_ROUND
    ]


def _membership(node: Node) -> Membership:
    membership = node.running.membership
    assert membership is not None, "these worlds have devices"
    return membership


def settle(world: World) -> Settled:
    """Make everything sound, and let time pass until nothing happens any more."""
    sound_from, held = world.now, _mend(world)
    world.run(until=sound_from + TOGETHER_S)
    for node in world.nodes.values():
        node.train_s = FOREVER_S
    world.run(until=sound_from + TOGETHER_S + QUIET_S)
    return Settled(world, held, sound_from)


def _mishap(world: World, script: random.Random) -> Callable[[], None]:
    """Draw something that goes wrong, or right again."""
    names = sorted(world.nodes)
    a, b = sorted(script.choice(world.links) if world.links else script.sample(names, 2))
    node = world.nodes[script.choice(names)]
    half = set(script.sample(names, len(names) // 2))
    seconds = script.uniform(2, 20)
    keep_disk = script.random() < 0.7 or node.has_twin

    def crash() -> None:
        if node.machine is not None:
            node.crash(keep_disk=keep_disk)

    def die_authoring() -> None:
        node.dies_authoring = True

    def freeze() -> None:
        node.freeze(seconds)

    def lag() -> None:
        node.skip_rounds.update({1, 2, 5, 8})
        node.train_s = 7.0

    return script.choice(
        [
            lambda: world.cut(a, b),
            lambda: world.heal(a, b),
            lambda: world.partition(half, set(names) - half),
            crash,
            crash,
            die_authoring,
            freeze,
            lag,
            node.start,
        ]
    )


def _mend(world: World) -> tuple[Update, ...]:
    """Make everything sound; return what live peers hold."""
    world.partition(world.nodes)
    world.slow.clear()
    world.script.clear()
    for node in world.nodes.values():
        node.dies_authoring = False
        node.skip_rounds.clear()
        node.train_s = None
        node.thaw()
        node.start()
    sets = [node.running.updates for node in world.nodes.values()]
    authored = {u.id: u for node in world.nodes.values() for u in node.authored}
    return tuple(
        u for u in authored.values() if any(u.id in s or s.history.includes(u) for s in sets)
    )


def check_settled(settled: Settled) -> list[str]:
    """Return what does not hold in a settled world."""
    nodes = list(settled.world.nodes.values())
    machines = [node.running for node in nodes]
    plans = [machine.rounds.plan(through=MAX_ROUND) for machine in machines]
    broken = _always_broken(nodes)
    if len({machine.updates.digest for machine in machines}) > 1:
        broken.append("the sets differ")
    if len({node.fold_afresh(plan) for node, plan in zip(nodes, plans, strict=True)}) > 1:
        broken.append("the folds differ")
    for node in nodes:
        updates = node.running.updates
        lost = [
            update
            for update in settled.held
            if not (
                update.id in updates
                or updates.history.includes(update)
                or _is_void(nodes, update)
                or _is_excused(nodes, update)
            )
        ]
        if lost:
            broken.append(f"{node.name} lost {len(lost)} updates")
        broken += _count_learned(node)
        if node.running.sync.num_wanted:
            broken.append(f"{node.name} still wants {node.running.sync.num_wanted} items")
        ends_at = settled.sound_from + TOGETHER_S
        since = [c for c in node.closed if settled.sound_from < c.at < ends_at]
        others = (other for other in nodes if other is not node)
        is_ahead = all(n.running.rounds.round <= node.running.rounds.round for n in others)
        # Who is ahead of all, in a round that is not its turn, waits until that round comes.
        waits = node.cfg.turn_period > 1 and is_ahead
        if not (since or waits):
            broken.append(f"{node.name} closed no round after the trouble")
        broken += [
            f"{node.name} closed round {closed.round} at {closed.at:.1f} s: {closed.reason}"
            for closed in since
            if closed.at > settled.sound_from + SETTLE_S
            and closed.reason.startswith("deadline")
            and not _misses_only_laggards(closed, nodes)
        ]
    return broken


def _misses_only_laggards(closed: Closed, nodes: Sequence[Node]) -> bool:
    """Tell whether all whose updates a round missed were two rounds behind when the wait began.

    One peer's word makes nobody skip rounds (decision 0005): who is ahead alone waits for the
    others at its deadline. Whoever was nearer must not be missed.
    """
    since = closed.at - closed.waited_s
    laggards = {
        node.id
        for node in nodes
        for first in [next((c for c in node.closed if c.at > since), None)]
        if first is not None and first.round <= closed.round - 2
    }
    return bool(closed.missing) and laggards.issuperset(closed.missing)


def _counts(update: Update, updates: UpdateSet) -> bool:
    """Tell whether an update is folded, or part of what is folded on."""
    return updates.history.includes(update) or update in updates.live(update.round)


def _is_void(nodes: Sequence[Node], update: Update) -> bool:
    """Tell whether an update is one of several under a slot."""
    signed = {u.id for n in nodes for u in n.authored if _slot(u) == _slot(update)}
    return len(signed) > 1


def _is_excused(nodes: Sequence[Node], update: Update) -> bool:
    """Tell whether an update was left out, or crowded out: its author carries it, or is gone."""
    authors = [node for node in nodes if node.id == update.author]
    if authors:
        return all(update.id in author.taken_back for author in authors)
    if _had_no_place(nodes, update):
        return True
    has_passed = all(update.round <= node.running.base.frontier for node in nodes)
    had_no_room = all(node.cfg.budget_bytes is not None for node in nodes)
    told = any("are left out" in text for node in nodes for text in node.told)
    return told and (has_passed or had_no_room)


def _had_no_place(nodes: Sequence[Node], update: Update) -> bool:
    """Tell whether as many authors as have a place in a round come before an update's."""
    signed = {u.author for n in nodes for u in n.authored if u.round == update.round}
    return sum(author < update.author for author in signed) >= update_set.MAX_HELD_AUTHORS


def _count_learned(node: Node) -> list[str]:
    """Return what a node has learned and published that does not count once, in its own model."""
    if node.has_twin or node.cfg.max_liars:
        return []  # one does not know what the other has learned; a device counts once a round
    updates = node.running.updates
    own = [update for update in node.authored if update.author == node.id]
    total = node.residual.copy()
    for update in own:
        if _counts(update, updates):
            total.update(node.carried[update.id])
    return [
        f"{node.name} has learned round {update.round} {total[update.id]} times"
        for update in own
        if total[update.id] != 1
    ]


def _slot(update: Update) -> tuple[int, PeerId]:
    return update.round, update.author


def undisturbed(seed: int) -> list[str]:
    """Run peers on a sound network to their end; return what does not hold."""
    script = random.Random(seed)  # reproducible, not secret  # nosec B311
    names = "abcde"[: script.randrange(2, 6)]
    links = script.choice(TOPOLOGIES)(names)
    is_full = len(links) == len(full(names))
    is_slow = script.random() < 0.3
    kinds = ["none", "none", "late", "early", "given", "observer"]
    kind = script.choice(kinds) if len(names) > 2 else "none"
    rounds = 8 if kind == "late" else script.randrange(1, 7)
    overlaps = script.random() < 0.3
    limit_s = 200.0 if is_slow else SOUND_LIMIT_S
    cfg = NodeConfig(rounds=rounds, listen_timeout_s=limit_s, overlaps=overlaps)
    link = LinkConfig(repeat_share=script.choice([0.0, 0.1]))
    world = World(names, cfg, seed, link=link, links=links)
    if is_slow:  # once all have met: a slow start is a late one
        pair = frozenset(script.choice(links))
        world.after(10, lambda: world.slow.update({pair: SLOW_CHUNK_S}))
    nodes = list(world.nodes.values())
    odd = nodes[-1]  # nobody's only neighbour, but in a star of two
    if kind == "late":
        world.unannounced.add(odd.name)
    elif kind == "early":
        odd.cfg = replace(cfg, rounds=max(cfg.rounds - 1, 1))
    elif kind == "given":
        odd.is_given = True
    elif kind == "observer":  # in a line and in a star it is the only way between two others
        odd = nodes[1 if links == line(names) else 0]
        odd.cfg = replace(cfg, observes=True)
    for node in nodes:
        starts = (7, 12) if kind == "late" and node is odd else (0, 5)
        world.after(script.uniform(*starts), node.start)
    world.run(until=5_000)
    return _check_undisturbed(nodes, odd if kind == "late" else None, is_full=is_full)


def _check_undisturbed(nodes: Sequence[Node], late: Node | None, *, is_full: bool) -> list[str]:
    broken = _always_broken(nodes)
    is_sound = is_full and late is None and nodes[0].cfg.listen_timeout_s == SOUND_LIMIT_S
    for node in nodes:
        rounds = [closed.round for closed in node.closed]
        # In a sparse graph the first round may be over elsewhere before all are there; who comes
        # late may have to catch up.
        misses = node is late or not is_full or node.cfg.observes  # nobody waits for that one
        if node.finished is None:
            broken.append(f"{node.name} did not finish")
        elif rounds[-1] != node.cfg.rounds or not (
            misses or rounds == list(range(1, len(rounds) + 1))
        ):
            broken.append(f"{node.name} closed the rounds {rounds}")
        broken += [
            f"{node.name} closed round {closed.round}: {closed.reason}"
            for closed in node.closed
            if closed.reason.startswith("deadline") or (closed.missing and late is None and is_full)
        ]
        if is_sound and not node.cfg.observes:
            broken += [
                f"{node.name} waited {closed.waited_s:.1f} s in round {closed.round} for nothing"
                for closed in node.closed
                if closed.waited_s > LONGEST_WAIT_S
            ]
    by_round: dict[int, set[tuple[bytes, bytes]]] = {}
    for closed in (closed for node in nodes for closed in node.closed):
        digests = (closed.set_digest, closed.state_digest)
        by_round.setdefault(closed.round, set()).add(digests)
    for number, digests_seen in by_round.items():
        ends = [n for n in nodes if n.cfg.rounds == number]
        # Whoever knows of an observer only, on the way to all others, may be done before they met.
        have_met = number > 1 or not any(n.cfg.observes for n in nodes)
        must_agree = (is_full and late is None) or (len(ends) == len(nodes) and have_met)
        if must_agree and len(digests_seen) > 1:
            broken.append(f"round {number} ended in {len(digests_seen)} states")
        if len({d[0] for d in digests_seen}) != len(digests_seen):
            broken.append(f"equal sets of round {number} gave different states")
    return broken


def _always_broken(nodes: Sequence[Node]) -> list[str]:
    """Return what holds for every peer at any time, and does not."""
    broken = []
    for node in nodes:
        rounds = Counter(update.round for update in node.authored if update.author == node.id)
        if any(number > 1 for number in rounds.values()) and not node.has_twin:
            broken.append(f"{node.name} published twice in a round")
        broken += [
            f"{node.name} waited {closed.waited_s:.2f} s in round {closed.round}"
            for closed in node.closed
            if not closed.is_watched  # its clock starts with somebody else's update
            and closed.waited_s > node.cfg.listen_timeout_s + node.frozen_s + 0.01
        ]
        broken += [
            f"{node.name} heard nobody and waited only {closed.waited_s:.2f} s in {closed.round}"
            for closed in node.closed
            if closed.is_cut_off and closed.waited_s < node.cfg.listen_timeout_s - 0.01
        ]
        broken += [f"{node.name} reported {report}" for report in node.diverged]
        if node.num_wrong_folds:
            broken.append(f"{node.name} folded {node.num_wrong_folds} plans wrongly")
        if node.num_spins:
            broken.append(f"{node.name} set its alarm in the past, {node.num_spins} times")
    return broken
