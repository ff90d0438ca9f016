"""What stands in JSON for the arrays and circuits that are behind it ("QVALUE1").

The form is told by `qonduit.large_values` of the SDK.
"""

from __future__ import annotations

import re
from typing import Final

MAGIC: Final = b"QVALUE1\n"
TYPES: Final = {b"npy": b"ndarray", b"qpy.zst": b"QuantumCircuit"}
"""What `__type__` is, by the kind of a segment, of a value that is small enough to be in the JSON itself."""
# Within a string of JSON each quotation mark has a backslash before it, so nothing else can look like this.
REFERENCE: Final = re.compile(
    rb'\{"__type__":\s?"segment",\s?"__value__":\s?\{"kind":\s?"([a-z.]+)",\s?"number":\s?(\d+)\}\}'
)


def without_references(text: bytes) -> bytes:
    """Return JSON in which each reference is a value of the type that it stands for, with an empty text as content."""
    return REFERENCE.sub(_empty_value, text)


def _empty_value(found: re.Match[bytes]) -> bytes:
    kind = TYPES.get(found[1])
    return found[0] if kind is None else b'{"__type__":"%b","__value__":""}' % kind
