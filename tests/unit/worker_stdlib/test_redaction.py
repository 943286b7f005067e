"""The worker's redaction, with the standard library's unittest only: `make demo` runs this inside a sandbox."""

import base64
import json
import unittest
import urllib.parse

from sfp_worker.redact import Redactor

SECRET = "tr0ub4dor&3 with spaces/and=signs"


class Redaction(unittest.TestCase):
    def redacted(self, text: str) -> str:
        return Redactor([SECRET]).text(text)

    def test_a_value_is_replaced_wherever_it_stands(self) -> None:
        assert self.redacted(f"a {SECRET} b {SECRET}") == "a *** b ***"

    def test_base64_of_a_value_is_replaced(self) -> None:
        encoded = base64.b64encode(SECRET.encode()).decode()
        assert encoded not in self.redacted(f"Authorization: Basic {encoded}")

    def test_url_escapes_of_a_value_are_replaced(self) -> None:
        escaped = urllib.parse.quote(SECRET, safe="")
        assert self.redacted(f"https://x/?token={escaped}&y") == "https://x/?token=***&y"

    def test_a_value_inside_json_is_replaced(self) -> None:
        assert SECRET not in self.redacted(json.dumps({"token": SECRET}))

    def test_a_value_cut_anywhere_is_replaced(self) -> None:
        whole = f"x{SECRET}y".encode()
        for cut in range(len(whole)):
            with self.subTest(cut=cut):
                stream = Redactor([SECRET]).stream()
                shown = stream.feed(whole[:cut]) + stream.feed(whole[cut:]) + stream.finish()
                assert shown == b"x***y"

    def test_text_without_a_value_stays_as_it_is(self) -> None:
        text = "nothing to hide: \u00e4\u00f6\u00fc \u2713"
        assert self.redacted(text) == text


if __name__ == "__main__":
    unittest.main()
