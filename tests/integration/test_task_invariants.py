"""Random lives of tasks, step by step: after each step, what must always hold is looked for in the database itself."""

import random
from datetime import UTC, datetime, timedelta

import pytest

from sfp_server.actor import Actor, Role
from sfp_server.tasks import answers, explain, service

DISPATCHER = "00000000-0000-7000-8000-000000000001"
TEAM_LIMIT = 4
CLAIM = "SELECT * FROM claim($1, $2, $3, $4, $5)"

#: what never may be: name → a query of its cases
NEVER = {
    "a pending task without a reason, or a reason without waiting": """
        SELECT id FROM tasks WHERE (status = 'pending') <> (reason IS NOT NULL)""",
    "an active task without exactly one active attempt, or an attempt that is active alone": """
        SELECT id FROM tasks LEFT JOIN attempts ON task_id = id AND attempts.status = 'active'
         GROUP BY id, tasks.status HAVING count(task_id) <> (tasks.status = 'active')::int""",
    "an active attempt that is not the current one": """
        SELECT task_id FROM attempts JOIN tasks ON id = task_id
         WHERE attempts.status = 'active' AND attempts.attempt <> tasks.attempt""",
    "a key that is held by a task which does not run, or a running task without its key": """
        SELECT id FROM tasks FULL JOIN held_keys ON task_id = id
         WHERE (status = 'active' AND concurrency_key IS NOT NULL) <> (key IS NOT NULL)""",
    "a key that is free, and nobody in line for it": """
        SELECT waiting.id FROM tasks AS waiting JOIN queues ON name = priority
         WHERE status = 'pending' AND reason = 'concurrency' AND NOT paused AND slots > 0
           AND NOT EXISTS (SELECT FROM held_keys WHERE held_keys.team_id = waiting.team_id AND key = concurrency_key)
           AND NOT EXISTS (SELECT FROM tasks AS first WHERE first.status = 'pending' AND first.reason <> 'concurrency'
                             AND first.team_id = waiting.team_id AND first.concurrency_key = waiting.concurrency_key)""",
    "a final task that has no time of its end, or gets another attempt": """
        SELECT id FROM tasks WHERE (status IN ('completed', 'failed', 'cancelled')) <> (finished_at IS NOT NULL)""",
    "a cancelled request that was retried": """
        SELECT id FROM tasks WHERE cancel_requested_at IS NOT NULL AND status NOT IN ('active', 'cancelled')""",
    "a reason that names a task of another team": """
        SELECT waiting.id FROM tasks AS waiting JOIN tasks AS other ON other.team_id <> waiting.team_id
         WHERE waiting.reason_detail LIKE '%' || other.id || '%'""",
    "a task that made room more often than it may": "SELECT id FROM tasks WHERE preemptions > 3",
    "attempts that are not numbered one by one": """
        SELECT task_id FROM attempts GROUP BY task_id HAVING max(attempt) <> count(*)""",
    "an end without its event": """
        SELECT id FROM tasks WHERE finished_at IS NOT NULL AND NOT EXISTS (
          SELECT FROM events WHERE channel = 'task:' || id AND event = 'task.' || status)""",
}
#: tasks that share a task's key and could run, and come before it
BEFORE = """
  SELECT count(*)
    FROM tasks AS me
    JOIN tasks AS other ON (other.team_id, other.concurrency_key) = (me.team_id, me.concurrency_key)
    JOIN queues ON queues.name = other.priority
   WHERE me.id = $1 AND other.status = 'pending' AND other.due_at <= now() AND other.runtime IS DISTINCT FROM 'kubernetes'
     AND NOT paused AND slots > 0
     AND (array_position('{critical,normal,batch}', other.priority), other.due_at, other.id)
         < (array_position('{critical,normal,batch}', me.priority), me.due_at, me.id)"""
#: what no claim may do; slots that are lowered later are another matter
AFTER_CLAIM = """
  SELECT attempts.team_id FROM attempts WHERE status = 'active' GROUP BY team_id HAVING count(*) > $1"""


class Life:
    """Two teams, one pretended dispatcher, and a random choice of what happens next."""

    def __init__(self, world, other: Actor, seed: int) -> None:
        self.world, self.actors = world, [world.owner, other]
        self.random = random.Random(seed)
        self.log: list[str] = []

    async def step(self) -> None:
        steps = (
            [self.submit] * 4
            + [self.claim] * 4
            + [self.finish] * 3
            + [self.cancel, self.change_queue, self.explain, self.pass_time]
        )
        step = self.random.choice(steps)
        self.log.append(step.__name__)
        await step()

    async def submit(self) -> None:
        choose = self.random.choice
        fields = {"priority": choose(["critical", "normal", "normal", "batch"])}
        if self.random.random() < 0.3:
            fields["concurrencyKey"] = choose(["a", "b"])
        if self.random.random() < 0.3:
            fields["retryConfig"] = {"maxAttempts": 3, "delaySeconds": choose([0, 60])}
        if self.random.random() < 0.1:
            fields["runtime"] = "kubernetes"
        if self.random.random() < 0.1:
            at = datetime.now(UTC) + timedelta(seconds=choose([-60, 60]))
            fields |= {"scheduleType": "scheduled", "scheduledFor": at.isoformat()}
        if self.random.random() < 0.1:
            fields["queueTimeoutSeconds"] = 30
        self.world.owner = choose(self.actors)
        await self.world.submit("/bin/true", **fields)

    async def claim(self) -> None:
        async with self.world.engine.database.serving() as tx:
            await tx.all(CLAIM, DISPATCHER, ["sandbox"], TEAM_LIMIT, 3, self.random.choice([1, 3]))
        assert await self.world.admin.fetch(AFTER_CLAIM, TEAM_LIMIT) == []

    async def finish(self) -> None:
        row = await self.some("SELECT task_id, attempt, preempt_asked_at FROM attempts WHERE status = 'active'")
        if row is None:
            return
        status, attempt_status, delay = self.random.choice(
            [
                ("completed", "completed", None),
                ("failed", "failed", None),
                ("failed", "failed", 60.0),
                ("failed", "lost", 0.0),
            ]
        )
        if row["preempt_asked_at"] is not None:
            status, attempt_status, delay = "pending", "preempted", None
        error = None if status == "completed" else {"code": "exit_code", "message": "no", "retryable": True}
        how = {"task_id": row["task_id"], "attempt": row["attempt"], "status": status, "error": error}
        async with self.world.engine.database.serving() as tx:
            assert await tx.value(
                "SELECT finish($1)", [{**how, "attempt_status": attempt_status, "retry_after": delay}]
            )

    async def cancel(self) -> None:
        row = await self.some(
            "SELECT id, team_id FROM tasks WHERE status IN ('pending', 'active') AND cancel_requested_at IS NULL"
        )
        if row is None:
            return
        actor = next(actor for actor in self.actors if actor.team_id == row["team_id"])
        async with self.world.api.transaction(actor) as tx:
            await service.cancel(tx, actor, row["id"])

    async def change_queue(self) -> None:
        slots, paused = self.random.choice([0, 1, 2, 3]), self.random.random() < 0.2
        name = self.random.choice(["critical", "normal", "batch"])
        await self.world.admin.execute("UPDATE queues SET slots = $2, paused = $3 WHERE name = $1", name, slots, paused)

    async def explain(self) -> None:
        """What the dispatcher does every second; afterwards each reason is the true one."""
        await self.world.admin.execute(
            "INSERT INTO dispatchers (id, host, pid, runtimes) VALUES ($1, 'x', 1, '{sandbox}') ON CONFLICT DO NOTHING",
            DISPATCHER,
        )
        async with self.world.engine.database.serving() as tx:
            await tx.all(self.world.dispatch_sql["due"])
            await tx.execute(self.world.dispatch_sql["explain"], TEAM_LIMIT)
        for row in await self.world.admin.fetch("SELECT * FROM tasks WHERE status = 'pending'"):
            assert row["reason"] == await self.true_reason(row), self.log[-10:]

    async def true_reason(self, row) -> str:
        one = self.world.admin.fetchval
        queue = await self.world.admin.fetchrow("SELECT paused, slots FROM queues WHERE name = $1", row["priority"])
        if row["due_at"] > datetime.now(UTC):
            return "scheduled" if row["attempt"] == 0 else "retry"
        if queue["paused"] or queue["slots"] == 0:
            return "paused"
        if row["runtime"] not in {None, "sandbox"}:
            return "no_runtime"
        held = "SELECT count(*) FROM held_keys WHERE team_id = $1 AND key = $2"
        if await one(held, row["team_id"], row["concurrency_key"]) or await one(BEFORE, row["id"]):
            return "concurrency"
        active = await one("SELECT count(*) FROM attempts WHERE status = 'active' AND team_id = $1", row["team_id"])
        return "quota" if active >= TEAM_LIMIT else "queued"

    async def pass_time(self) -> None:
        """A minute, for those who wait; who waited too long is failed."""
        await self.world.admin.execute(
            "UPDATE tasks SET due_at = due_at - interval '1 minute', created_at = created_at - interval '1 minute'"
            " WHERE status = 'pending'"
        )
        while True:
            async with self.world.engine.database.serving() as tx:
                row = await tx.one(self.world.dispatch_sql["overdue"], {"code": "queue_timeout", "message": "x"})
                if row is None:
                    return
                await tx.serve(row["team_id"])
                await tx.all(self.world.dispatch_sql["tell_overdue"], row["id"])

    async def some(self, statement: str):
        rows = await self.world.admin.fetch(f"{statement} ORDER BY 1")
        return self.random.choice(rows) if rows else None

    async def look(self) -> None:
        for what, query in NEVER.items():
            assert await self.world.admin.fetch(query) == [], (what, self.log[-20:])

    async def ask_everywhere(self) -> None:
        """Every waiting task can say why, to its own team only."""
        for actor in self.actors:
            async with self.world.api.transaction(actor) as tx:
                for row in await service.listed(tx, service.Filter(status="pending"), after=None, limit=200):
                    task = await service.get(tx, row["id"])
                    told = await explain.explain(tx, task)
                    assert answers.status(task).reason
                    assert told.reasons
                    assert told.position is None or 1 <= told.position <= told.queue_pending


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_whatever_happens_the_rules_hold(world, seed):
    await world.close()
    world.dispatchers.clear()
    team = await world.admin.fetchval("INSERT INTO teams (slug, name) VALUES ('beta', 'Beta') RETURNING id")
    user = await world.admin.fetchval("INSERT INTO users (email) VALUES ('bob@beta.example') RETURNING id")
    other = Actor(
        id=user, role=Role.OWNER, team_id=team, team_slug="beta", name="bob", scopes=frozenset({"tasks:cancel-any"})
    )
    life = Life(world, other, seed)
    for _ in range(150):
        await life.step()
        await life.look()
    await life.ask_everywhere()
    counts = dict(await world.admin.fetch("SELECT status, count(*) FROM tasks GROUP BY 1"))
    assert min(counts.get(status, 0) for status in ("completed", "failed", "cancelled")) > 0  # it was a life
