"""docs/configuration.md, from the settings themselves.

Run `python -m sfp_server.instance.reference > docs/configuration.md` after a change.
"""

import sys

from sfp_server.settings import documentation

HEADER = """\
# Configuration

<!-- Generated: python -m sfp_server.instance.reference > docs/configuration.md -->

`sfp-server init` writes `<base-dir>/tenants/<tenant>/config.json`; edit it and start the instance again. The
environment of `sfp-server start` goes before the file, the file before the default. Unknown keys are refused.
Dotted keys are nested objects: `database.url` is `{"database": {"url": "…"}}`.

Secrets are never in this file: each is a file of its own in `<base-dir>/tenants/<tenant>/secrets/` (0600). The
URLs of an external PostgreSQL or Valkey are taken by `init` (from `DATABASE_URL`, `VALKEY_URL` or
`--config-file`); their passwords are kept in `secrets/`, and a different `DATABASE_URL` in the environment of a
later command is refused rather than followed.

`autoPorts` (both) and `autoApiPort` are true when `init` chose the ports: `start` may then choose others when they
are taken. A port that you name is used or refused.

| key | environment | default | meaning |
|---|---|---|---|
"""


def render() -> str:
    """The whole page."""
    rows = (f"| `{key}` | `{env}` | `{default}` | {_cell(text)} |" for key, env, default, text in documentation())
    return HEADER + "\n".join(rows) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(render())
