"""Which processes are said to be where, and whom to call first.

Anyone whom a router lets in can say of any address that a process is there, as often as it likes.
So little is kept of each address, and who has proven to be there goes before who has not. Pure:
chance comes in.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from semantic_net.protocol.address import Address
from semantic_net.transport.zenoh_place import Place

MAX_ADDRESSES = 4096
"""Of all that are said to be there."""

MAX_INSTANCES = 4
"""Processes of one address. An honest one has one, or two while the last one's end is not known."""


@dataclass(slots=True)
class Instance:
    """A process that is said to be there."""

    place: Place
    met: int = 0
    """When it last proved to be what it is said to be, as a count of such events; 0 for never."""
    tries: int = 0
    """How often it was called since."""


class Directory:
    """Who is said to be there."""

    def __init__(self, rng: random.Random) -> None:
        """Take what nobody outside can foresee."""
        self._rng = rng
        self._known: dict[Address, dict[bytes, Instance]] = {}
        self._meetings = 0

    def __contains__(self, place: Place) -> bool:
        return place.instance in self._known.get(place.address, {})

    def add(self, place: Place) -> bool:
        """Note that a process is said to be there; tell whether another one had to go for it."""
        instances = self._known.setdefault(place.address, {})
        instances.setdefault(place.instance, Instance(place))
        return self._make_room(instances)

    def meet(self, place: Place) -> None:
        """Note that a process has proven to be there: it is the first to call."""
        instances = self._known.get(place.address, {})
        instance = instances.pop(place.instance, Instance(place))
        self._meetings += 1
        instance.met, instance.tries = self._meetings, 0
        instances = self._known[place.address] = {place.instance: instance, **instances}
        self._make_room(instances)

    def remove(self, place: Place) -> None:
        """Note that a process is there no more."""
        instances = self._known.get(place.address, {})
        instances.pop(place.instance, None)
        if not instances:
            self._known.pop(place.address, None)

    def to_call(self, address: Address) -> list[Instance]:
        """Return who may be at an address, in the order in which to call."""
        return list(self._known.get(address, {}).values())

    def called(self, instance: Instance) -> None:
        """Note that a process is called: others have their turn before it is called again."""
        instance.tries += 1
        instances = self._known.get(instance.place.address, {})
        if instances.pop(instance.place.instance, None) is not None:
            instances[instance.place.instance] = instance

    def _make_room(self, instances: dict[bytes, Instance]) -> bool:
        if len(instances) > MAX_INSTANCES:
            worst = min(
                instances.values(), key=lambda each: (each.met, -each.tries, self._rng.random())
            )
            del instances[worst.place.instance]
            return True
        if len(self._known) > MAX_ADDRESSES:
            strangers = (a for a, known in self._known.items() if not _any_met(known))
            del self._known[next(strangers, next(iter(self._known)))]
            return True
        return False


def _any_met(instances: dict[bytes, Instance]) -> bool:
    """Tell whether one of them was ever met."""
    return any(instance.met for instance in instances.values())
