"""A byte stream over messages that may get lost, doubled or out of order. Pure: time comes in.

`Outgoing` keeps what it has sent until the other end says that it has it, and `Incoming` puts what
arrives in order; each message that goes out carries what both have to say.
"""

from __future__ import annotations

from semantic_net.transport.incoming import Incoming
from semantic_net.transport.outgoing import Outgoing
from semantic_net.transport.segment import Segment


class ReliableStream:
    """Both directions of one stream, at one end."""

    def __init__(self) -> None:
        self.outgoing = Outgoing()
        self.incoming = Incoming()

    def received(self, segment: Segment, now: float) -> None:
        """Take a segment.

        Raises:
            RemoteProtocolError: It makes no sense.
        """
        self.outgoing.answered(segment, now)
        self.incoming.take(segment, now)

    def to_send(self, now: float) -> list[Segment]:
        """Return the segments that go out now."""
        sending = list(self.outgoing.next_segments(now))
        due = self.incoming.answer_at is not None and self.incoming.answer_at <= now
        if not sending and (due or self.incoming.has_news):
            sending.append(Segment())
        return [self._with_answer(segment) for segment in sending]

    def _with_answer(self, segment: Segment) -> Segment:
        flags, acknowledged, echo, limit = self.incoming.answer()
        return Segment(
            segment.flags | flags,
            segment.number,
            segment.offset,
            acknowledged,
            echo,
            limit,
            segment.data,
        )

    def wake_at(self) -> float | None:
        """Return when `to_send` has something next, if nothing happens until then."""
        times = (self.outgoing.wake_at, self.incoming.answer_at)
        return min((time for time in times if time is not None), default=None)
