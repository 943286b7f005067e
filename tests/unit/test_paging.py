"""Cursors: opaque, and never more than malformed."""

from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfp_server.errors import Malformed
from sfp_server.web.paging import after, after_number, after_text, cursor_of, page


def test_a_cursor_names_the_last_row_seen():
    key = uuid4()
    assert after(cursor_of(key)) == key
    assert after_number(cursor_of(17)) == 17
    assert after_text(cursor_of("naïve")) == "naïve"
    assert after(None) is None


def test_a_page_has_a_next_one_only_when_there_are_more_rows():
    assert page([1, 2, 3], 2, key=lambda row: row).items == [1, 2]
    assert after_number(page([1, 2, 3], 2, key=lambda row: row).next_cursor) == 2
    assert page([1, 2], 2, key=lambda row: row).next_cursor is None
    assert page([], 2, key=lambda row: row).next_cursor is None


@given(st.text(min_size=1))
def test_nonsense_is_malformed(text):
    for read in (after, after_number):
        assert places(read, text) in ([], ["cursor"])


def places(read, text):
    """Where `read` says that the cursor is wrong, nowhere when it accepts it."""
    try:
        read(text)
    except Malformed as error:
        return [wrong.path for wrong in error.errors]
    return []


def test_numbers_beyond_the_database_are_malformed():
    for number in (2**63, -1, "1_0", "٣"):
        with pytest.raises(Malformed):
            after_number(cursor_of(number))
