"""What goes over Valkey from the relay to the API processes: one pub/sub channel, bundles of publications.

Valkey forgets at once and may lose everything: each publication says which numbers it carries, so that a
reader notices what is missing.
"""

from collections.abc import Sequence
from uuid import UUID

import msgspec

from sfp_server.events.model import Frame

#: the pub/sub channel of Valkey
FANOUT = "sfp:events"
#: characters of bodies in one message: a slow API process is cut off by Valkey at 8 MB (its default)
BUNDLE_SIZE = 256 * 1024


class Publication(msgspec.Struct, frozen=True, array_like=True):
    """Consecutive events `first`…`last` of one channel of one team."""

    team_id: UUID
    channel: str
    first: int
    last: int
    #: encoded list of Frame, left alone by processes in which nobody asked for it
    encoded: msgspec.Raw

    def frames(self) -> list[Frame]:
        return _FRAMES.decode(self.encoded)


_FRAMES = msgspec.msgpack.Decoder(list[Frame])
_BUNDLE = msgspec.msgpack.Decoder(list[Publication])
_ENCODER = msgspec.msgpack.Encoder()


def publication(team_id: UUID, channel: str, frames: Sequence[Frame]) -> Publication:
    """Wrap frames whose numbers follow each other without a gap."""
    encoded = msgspec.Raw(_ENCODER.encode(frames))
    return Publication(team_id, channel, frames[0].seq, frames[-1].seq, encoded)


def bundles(publications: Sequence[Publication]) -> list[bytes]:
    """Encode for Valkey, in order, several to a message up to its size."""
    messages: list[bytes] = []
    bundle: list[Publication] = []
    size = 0
    for item in publications:
        if bundle and size + len(item.encoded) > BUNDLE_SIZE:
            messages.append(_ENCODER.encode(bundle))
            bundle, size = [], 0
        bundle.append(item)
        size += len(item.encoded)
    return [*messages, _ENCODER.encode(bundle)] if bundle else messages


def unbundle(message: bytes) -> list[Publication]:
    """Raises msgspec.MsgspecError when it is not a bundle of this release."""
    return _BUNDLE.decode(message)
