"""Sealed values open in their own place, and nowhere else."""

import dataclasses
import uuid

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from sfp_server.credentials.vault import CannotOpen, Opener, Place, Sealed, Sealer


def _keys() -> tuple[Sealer, Opener]:
    key = X25519PrivateKey.generate()
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Sealer(public.decode()), Opener(private.decode())


PLACE = Place(table="secrets", row_id=uuid.UUID(int=1), team_id=uuid.UUID(int=2), field="NPM", version=3)


def test_what_was_sealed_opens_in_its_place():
    sealer, opener = _keys()
    assert opener.open(sealer.seal(b"value", PLACE), PLACE) == b"value"


@pytest.mark.parametrize(
    "change",
    [
        {"table": "orgs"}, {"row_id": uuid.UUID(int=9)}, {"team_id": uuid.UUID(int=9)}, {"field": "X"},
        {"version": 4}, {"key_version": 2},
    ],
)  # fmt: skip
def test_a_value_does_not_open_in_another_place(change):
    sealer, opener = _keys()
    sealed = sealer.seal(b"value", PLACE)
    with pytest.raises(CannotOpen):
        opener.open(sealed, dataclasses.replace(PLACE, **change))


@pytest.mark.parametrize("part", ["sealed_key", "ciphertext"])
def test_a_changed_value_does_not_open(part):
    sealer, opener = _keys()
    sealed = sealer.seal(b"value", PLACE)
    raw = bytearray(getattr(sealed, part))
    for position in range(0, len(raw), 7):
        changed = raw.copy()
        changed[position] ^= 1
        with pytest.raises(CannotOpen):
            opener.open(dataclasses.replace(sealed, **{part: bytes(changed)}), PLACE)


def test_another_instances_key_opens_nothing():
    sealer, _ = _keys()
    _, other = _keys()
    with pytest.raises(CannotOpen):
        other.open(sealer.seal(b"value", PLACE), PLACE)


def test_empty_remains_do_not_crash():
    _, opener = _keys()
    with pytest.raises(CannotOpen):
        opener.open(Sealed(sealed_key=b"", ciphertext=b""), PLACE)
