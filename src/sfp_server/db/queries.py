"""Named queries in `.sql` files: `-- name: claim` starts one, the text up to the next is its statement."""

import re
from collections.abc import Mapping
from importlib.resources import files

_NAME = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)


def load(package: str, filename: str) -> Mapping[str, str]:
    """Read the named queries of a file that stands beside the code of `package`.

    Raises:
        ValueError: two queries have the same name.
    """
    parts = _NAME.split(files(package).joinpath(filename).read_text())
    names, statements = parts[1::2], parts[2::2]
    if len(set(names)) != len(names):
        raise ValueError(f"{filename} names a query twice")
    return {name: statement.strip().rstrip(";") for name, statement in zip(names, statements, strict=True)}
