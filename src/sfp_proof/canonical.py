"""One spelling for each JSON value, so that its hash is the same wherever it is computed."""

import hashlib
import json
from typing import Any


def canonical(value: Any) -> bytes:
    """JSON with sorted keys and no white space, in UTF-8. Numbers are integers: floats have many spellings."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "surrogatepass")


def digest(value: Any) -> bytes:
    """SHA-256 of the canonical spelling."""
    return hashlib.sha256(canonical(value)).digest()
