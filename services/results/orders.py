"""What the aggregator and its result writer say to each other over the writer's stdin and stdout: one reply for each order, in order.

A message is a 4-byte big-endian length and msgpack.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

from mloc.services.results.merging import Merge, Merged
from mloc.services.results.publishing import Publish, Published
from mloc.services.results.trees import WriteTrees, Written

LENGTH_BYTES = 4


class Failed(Struct, frozen=True, tag=True, gc=False):
    """The order was not carried out; trying again may help."""

    reason: str


Order = Publish | Merge | WriteTrees
Reply = Published | Merged | Written | Failed

_encoder = msgspec.msgpack.Encoder()
_order_decoder: msgspec.msgpack.Decoder[Order] = msgspec.msgpack.Decoder(Order)
_reply_decoder: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)


def message(said: Order | Reply) -> bytes:
    body = _encoder.encode(said)
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


def decode_order(body: bytes) -> Order:
    return _order_decoder.decode(body)


def decode_reply(body: bytes) -> Reply:
    return _reply_decoder.decode(body)
