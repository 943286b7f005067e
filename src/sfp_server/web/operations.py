"""What the API can be asked to do, read from its routes: who may do what is declared there and nowhere else."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from litestar.routes import BaseRoute, HTTPRoute

from sfp_server.web.guard import PUBLIC


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method of one path."""

    #: as `GET /sfp/api/tasks/{task_id}`
    name: str
    #: what the route declares, see `web/guard.py`
    opt: Mapping[str, Any]


class Operations:
    """All of them. Filled once by the composition root, when the application knows its routes."""

    def __init__(self) -> None:
        self._found: dict[str, Operation] = {}

    def fill(self, routes: Iterable[BaseRoute]) -> None:
        for route in routes:
            if isinstance(route, HTTPRoute):
                for handler in route.route_handlers:
                    for method in handler.http_methods:
                        name = f"{method} {route.path_format}"
                        if str(method) != "OPTIONS":
                            self._found[name] = Operation(name=name, opt=handler.opt)

    def find(self, name: str) -> Operation | None:
        """The operation of this name; the part `/sfp/api` of its path may be left out."""
        method, _, path = name.partition(" ")
        return self._found.get(name) or self._found.get(f"{method} /sfp/api{path}")

    def by_scope(self) -> dict[str, list[str]]:
        """Scope → the operations that it opens, or of which it opens more."""
        found: dict[str, list[str]] = {}
        for operation in self._found.values():
            for scope in (operation.opt.get("scope"), operation.opt.get("others")):
                if isinstance(scope, str) and scope != PUBLIC:
                    found.setdefault(scope, []).append(operation.name)
        return {scope: sorted(names) for scope, names in found.items()}
