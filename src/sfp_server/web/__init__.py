"""What every HTTP capability shares.

`guard.py` who may call a route · `wire.py` bodies in and out · `problems.py` errors as RFC 9457 · `limits.py` sizes,
times and headers of every request · `paging.py` cursors · `idempotency.py` creating once · `ratelimit.py` ·
`openapi.py` · `logs.py` (used by every process) · `protocol.py` limits below HTTP.

A route in a capability's `routes.py`:

    @post("/tasks", opt={"scope": "tasks:write"})
    async def submit(
        data: JSONBody[SubmitTask], actor: NamedDependency[Actor], db: NamedDependency[Database]
    ) -> Response[TaskAnswer]: ...

`actor`, `db`, `settings`, `cache` and `authenticator` are named dependencies that `app.py` provides.
"""
