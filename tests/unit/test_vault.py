"""Sealed values open in their own place, and nowhere else."""

import dataclasses
import uuid

import pytest

from sfp_server.credentials.ring import BadRing, Ring, is_vouched, vouch
from sfp_server.credentials.vault import CannotOpen, Place, Sealed

PLACE = Place(table="secret_versions", row_id=uuid.UUID(int=1), team_id=uuid.UUID(int=2), field="NPM", version=3)


def test_what_was_sealed_opens_in_its_place():
    ring = Ring.fresh()
    assert ring.opener().open(ring.sealer().seal(b"value", PLACE), PLACE) == b"value"


@pytest.mark.parametrize(
    "change",
    [
        {"table": "orgs"}, {"row_id": uuid.UUID(int=9)}, {"team_id": uuid.UUID(int=9)}, {"field": "X"},
        {"field": "NPM#reference"}, {"version": 4},
    ],
)  # fmt: skip
def test_a_value_does_not_open_in_another_place(change):
    ring = Ring.fresh()
    sealed = ring.sealer().seal(b"value", PLACE)
    with pytest.raises(CannotOpen):
        ring.opener().open(sealed, dataclasses.replace(PLACE, **change))


@pytest.mark.parametrize("part", ["sealed_key", "ciphertext"])
def test_a_changed_value_does_not_open(part):
    ring = Ring.fresh()
    sealed = ring.sealer().seal(b"value", PLACE)
    raw = bytearray(getattr(sealed, part))
    for position in range(0, len(raw), 7):
        changed = raw.copy()
        changed[position] ^= 1
        with pytest.raises(CannotOpen):
            ring.opener().open(dataclasses.replace(sealed, **{part: bytes(changed)}), PLACE)


def test_another_instances_key_opens_nothing():
    with pytest.raises(CannotOpen):
        Ring.fresh().opener().open(Ring.fresh().sealer().seal(b"value", PLACE), PLACE)


@pytest.mark.parametrize("version", [1, 2])
def test_empty_remains_do_not_crash(version):
    with pytest.raises(CannotOpen):
        Ring.fresh().opener().open(Sealed(key_version=version, sealed_key=b"", ciphertext=b""), PLACE)


def test_a_key_sealed_anew_opens_the_same_value_with_the_new_pair_only():
    old = Ring.fresh()
    both = old.with_next()
    sealed = old.sealer().seal(b"value", PLACE)
    anew = both.opener().rewrap(1, sealed.sealed_key, PLACE, both.sealer())
    moved = dataclasses.replace(sealed, key_version=2, sealed_key=anew)
    assert both.without(1).opener().open(moved, PLACE) == b"value"
    with pytest.raises(CannotOpen):
        old.opener().open(moved, PLACE)
    with pytest.raises(CannotOpen):  # nor does it pass for one that is sealed to the old pair
        both.opener().open(dataclasses.replace(moved, key_version=1), PLACE)


def test_a_key_is_sealed_anew_for_its_own_place_only():
    both = Ring.fresh().with_next()
    sealed = both.without(2).sealer().seal(b"value", PLACE)
    with pytest.raises(CannotOpen):
        both.opener().rewrap(1, sealed.sealed_key, dataclasses.replace(PLACE, field="X"), both.sealer())


def test_a_ring_survives_its_text():
    ring = Ring.fresh().with_next()
    assert Ring.parse(ring.text()) == ring
    assert ring.current == 2


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", "not json", '{"1": "c2hvcnQ="}', '{"0": "' + "A" * 43 + '="}', '{"1": "%"}', '{"x": ""}']
)
def test_what_is_no_ring_is_refused_without_being_quoted(text):
    with pytest.raises(BadRing) as refusal:
        Ring.parse(text)
    assert len(text) < 3 or text not in str(refusal.value)


def test_a_public_key_is_vouched_for_with_its_version():
    public = Ring.fresh().public(1)
    mac = vouch(b"key", 1, public)
    assert is_vouched(b"key", 1, public, mac)
    assert not is_vouched(b"other", 1, public, mac)
    assert not is_vouched(b"key", 2, public, mac)
    assert not is_vouched(b"key", 1, Ring.fresh().public(1), mac)
