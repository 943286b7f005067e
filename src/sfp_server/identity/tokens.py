"""The texts of opaque tokens: application tokens and refresh tokens.

    sfp_at_ 1f3a9c07 _ <43 characters: 32 random bytes> <6 characters: CRC-32 of all before>
    sfp_rt_            <the same>

The 8 characters are the last of the token's id, so that a found token can be matched with its entry in a list (the
first ones of a time-ordered id would be the same for all tokens of a minute). The checksum lets secret scanners
tell a token from noise, and us refuse noise without asking the database. Only the SHA-256 of the text is
stored: 32 random bytes need no slow hash.
"""

import hashlib
import re
import secrets
import zlib
from uuid import UUID

_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_APPLICATION = re.compile(r"sfp_at_[0-9a-f]{8}_[0-9A-Za-z]{49}")
_REFRESH = re.compile(r"sfp_rt_[0-9A-Za-z]{49}")


def new_application_token(token_id: UUID) -> str:
    return _with_checksum(f"sfp_at_{str(token_id)[-8:]}_{_random()}")


def new_refresh_token() -> str:
    return _with_checksum(f"sfp_rt_{_random()}")


def is_application_token(text: str) -> bool:
    """Whether `text` has the form and the checksum of one; says nothing about whether it opens anything."""
    return _APPLICATION.fullmatch(text) is not None and _with_checksum(text[:-6]) == text


def is_refresh_token(text: str) -> bool:
    """The same for refresh tokens."""
    return _REFRESH.fullmatch(text) is not None and _with_checksum(text[:-6]) == text


def hash_of(text: str) -> bytes:
    """What is stored of a token."""
    return hashlib.sha256(text.encode()).digest()


def _random() -> str:
    return _base62(secrets.randbits(256), 43)


def _with_checksum(text: str) -> str:
    return text + _base62(zlib.crc32(text.encode()), 6)


def _base62(number: int, width: int) -> str:
    digits: list[str] = []
    for _ in range(width):
        number, digit = divmod(number, 62)
        digits.append(_DIGITS[digit])
    return "".join(reversed(digits))
