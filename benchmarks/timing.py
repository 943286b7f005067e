"""Can refusals be told apart by their time? Over HTTP at the API of a running instance, made for this.

Signs in with a wrong password for accounts that are known, unknown, disabled, or have no password; and calls with
application tokens that are unknown, revoked, or expired. Prints the medians, and for each pair the chance that a
difference of medians like this comes of nothing (permutation test, 2,000 shuffles): below 0.01 it can be told apart.
Tokens may be: their answers say it anyway. Usage: python benchmarks/timing.py INSTANCE_DIRECTORY [ROUNDS]
"""

import asyncio
import itertools
import os
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from sfp_server.db.database import Database
from sfp_server.identity.bootstrap import create_owner
from sfp_server.identity.tokens import hash_of, new_application_token
from sfp_server.settings import Settings

SHUFFLES = 2000
PASSWORD = "timing correct horse"


def permuted(one: list[float], other: list[float]) -> float:
    """The share of shuffles whose medians differ at least as much as these do."""
    seen = abs(statistics.median(one) - statistics.median(other))
    mixed, hits = one + other, 0
    for _ in range(SHUFFLES):
        random.shuffle(mixed)
        hits += abs(statistics.median(mixed[: len(one)]) - statistics.median(mixed[len(one) :])) >= seen
    return hits / SHUFFLES


def report(what: str, times: dict[str, list[float]]) -> None:
    print(f"{what}: " + ", ".join(f"{kind} {statistics.median(taken) * 1000:.2f} ms" for kind, taken in times.items()))
    for one, other in itertools.combinations(times, 2):
        print(f"  {one} / {other}: p = {permuted(times[one], times[other]):.3f}")


async def prepare(settings: Settings) -> dict[str, str]:
    """Accounts `known`, `disabled`, `no password`; answers tokens by what became of them."""
    url, team = settings.role_url("sfp_api"), "timing"
    for name in ("known", "disabled", "passwordless"):
        await create_owner(url, f"{name}@timing.example", PASSWORD, team_slug=f"{team}-{name}")
    made: dict[str, str] = {}
    async with Database(url, application="timing", size=1) as db:
        async with db.identifying() as tx:
            await tx.execute("DELETE FROM sessions WHERE address = ''")
            await tx.execute("UPDATE users SET disabled_at = now() WHERE email = 'disabled@timing.example'")
            await tx.execute("UPDATE users SET password_hash = NULL WHERE email = 'passwordless@timing.example'")
            user = await tx.value("SELECT id FROM users WHERE email = 'known@timing.example'")
        async with db.identifying(user_id=user) as tx:
            team_id = await tx.value("SELECT team_id FROM memberships WHERE user_id = $1", user)
        async with db.serving(team_id) as tx:
            for kind, ends, revoked in (("revoked", "1 day", "now()"), ("expired", "-1 second", "NULL")):
                token_id = await tx.value("SELECT uuid7()")
                made[kind] = new_application_token(token_id)
                await tx.execute(
                    "INSERT INTO application_tokens"
                    " (id, team_id, name, token_hash, scopes, created_by_name, expires_at, revoked_at)"
                    f" VALUES ($1, $2, 'timing', $3, '{{}}', 'timing', now() + interval '{ends}', {revoked})",
                    token_id,
                    team_id,
                    hash_of(made[kind]),
                )
            made["unknown"] = new_application_token(await tx.value("SELECT uuid7()"))
    return made


async def forgive(settings: Settings) -> None:
    """Limits are measured elsewhere."""
    async with Database(settings.role_url("sfp_api"), application="timing", size=1) as db, db.identifying() as tx:
        await tx.execute("DELETE FROM login_attempts")


def measured(call: Callable[[], httpx.Response]) -> float:
    started = time.perf_counter()
    assert call().status_code == 401
    return time.perf_counter() - started


def main() -> None:
    settings = Settings.load(Path(sys.argv[1]), os.environ)
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 100
    tokens = asyncio.run(prepare(settings))
    accounts = {name: f"{name}@timing.example" for name in ("known", "unknown", "disabled", "passwordless")}
    sign_ins: dict[str, list[float]] = {name: [] for name in accounts}
    looks: dict[str, list[float]] = {name: [] for name in tokens}
    with httpx.Client(base_url=f"http://127.0.0.1:{settings.api_port}/sfp/api") as client:
        for number in range(rounds):
            if number % 4 == 0:
                asyncio.run(forgive(settings))
            for name, email in random.sample(list(accounts.items()), len(accounts)):
                body = {"email": email, "password": "not the password"}
                sign_ins[name].append(measured(lambda body=body: client.post("/auth/admin/login", json=body)))
            for name, token in random.sample(list(tokens.items()), len(tokens)):
                sent = {"Authorization": f"Bearer {token}"}
                looks[name].append(measured(lambda sent=sent: client.get("/tasks", headers=sent)))
    report("sign-in", sign_ins)
    report("application token", looks)


if __name__ == "__main__":
    main()
