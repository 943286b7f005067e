"""The worker's progress lines, with the standard library's unittest only: `make demo` runs this inside a sandbox."""

import unittest

from sfp_worker.progress import parse


class ProgressLines(unittest.TestCase):
    def test_percent_and_text(self) -> None:
        assert parse(b"40 half of  the files\n") == (40, "half of the files")

    def test_a_percent_sign_is_fine(self) -> None:
        assert parse(b"100% done") == (100, "done")

    def test_percents_are_clamped(self) -> None:
        assert parse(b"250 more than all") == (100, "more than all")
        assert parse(b"-3 less than nothing") == (0, "less than nothing")

    def test_what_is_no_progress_is_ignored(self) -> None:
        for line in (b"", b"soon", b"12345678901 much", b"\xff\xfe 1"):
            with self.subTest(line=line):
                assert parse(line) is None


if __name__ == "__main__":
    unittest.main()
