-- name: claim
-- The next task of the most urgent queue that has one and a free slot. No row: nothing to run now.
SELECT *
  FROM claim_any($1, $2)

-- name: finish
SELECT finish($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)

-- name: progress
SELECT progress($1, $2, $3, $4)

-- name: log_lines
SELECT log_lines($1, $2, $3)

-- name: save_handle
UPDATE attempts
   SET handle = $3, runtime = $4
 WHERE task_id = $1
   AND attempt = $2
   AND status = 'active'

-- name: add_ticket
INSERT INTO worker_tickets (token_hash, team_id, task_id, attempt, expires_at)
VALUES ($1, current_team(), $2, $3, now() + interval '5 minutes')
ON CONFLICT DO NOTHING

-- name: add_kept
-- A kept file of the current attempt. No row: the attempt is not the current one.
INSERT INTO artifacts (id, team_id, task_id, attempt, name, size, sha256, created_by)
SELECT $1, team_id, id, attempt, $4, $5, $6, created_by
  FROM tasks
 WHERE id = $2
   AND attempt = $3
   AND status = 'active'
RETURNING id

-- name: input
-- An uploaded artifact of the served team. No row: it does not exist (any more).
SELECT id, name
  FROM artifacts
 WHERE id = $1
   AND team_id = current_team()

-- name: renew
-- Renew the leases of our running attempts; those that do not come back are no longer ours.
UPDATE attempts
   SET lease_expires_at = now() + make_interval(secs => tasks.lease_seconds)
  FROM tasks
 WHERE attempts.task_id = tasks.id
   AND attempts.dispatcher_id = $1
   AND attempts.status = 'active'
   AND attempts.task_id = ANY ($2::uuid[])
RETURNING attempts.task_id, attempts.attempt, tasks.cancel_requested_at

-- name: expired
-- Attempts whose lease ran out, by the database's clock, with what decides what becomes of their task.
SELECT attempts.task_id, attempts.attempt, attempts.team_id, tasks.max_attempts, tasks.retry_config,
       tasks.cancel_requested_at
  FROM attempts
  JOIN tasks ON tasks.id = attempts.task_id
 WHERE attempts.status = 'active'
   AND attempts.lease_expires_at < now()
 ORDER BY attempts.lease_expires_at
 LIMIT 100

-- name: abandoned
-- Attempts of a dispatcher that no longer exists on this host: their workers died with it.
SELECT attempts.task_id, attempts.attempt, attempts.team_id, attempts.handle, attempts.runtime, tasks.max_attempts, tasks.retry_config,
       tasks.cancel_requested_at
  FROM attempts
  JOIN tasks ON tasks.id = attempts.task_id
  JOIN dispatchers ON dispatchers.id = attempts.dispatcher_id
 WHERE attempts.status = 'active'
   AND dispatchers.host = $1
   AND dispatchers.id <> ALL ($2::uuid[])

-- name: cancelled_meanwhile
SELECT id, attempt
  FROM tasks
 WHERE status = 'active'
   AND cancel_requested_at IS NOT NULL
   AND id = ANY ($1::uuid[])

-- name: due
-- Wake what was scheduled or waited for a retry: it is in line now.
UPDATE tasks
   SET reason = 'queued', reason_detail = NULL
 WHERE status = 'pending'
   AND reason IN ('scheduled', 'retry')
   AND due_at <= now()
RETURNING id

-- name: overdue
-- Waited longer than its queue timeout allows.
UPDATE tasks
   SET status = 'failed', reason = NULL, reason_detail = NULL, finished_at = now(), error = $1
 WHERE status = 'pending'
   AND queue_timeout_seconds IS NOT NULL
   AND created_at + make_interval(secs => queue_timeout_seconds) < now()
   AND id = (SELECT id FROM tasks
              WHERE status = 'pending' AND queue_timeout_seconds IS NOT NULL
                AND created_at + make_interval(secs => queue_timeout_seconds) < now()
              ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING *

-- name: tell_overdue
SELECT tell_task(tasks, 'task.failed')
  FROM tasks
 WHERE id = $1

-- name: explain
-- Keep the reasons of due tasks true: the first that applies, in this order. Touches only what changed.
UPDATE tasks
   SET reason = now_is.reason, reason_detail = now_is.detail
  FROM (
    SELECT waiting.id,
           CASE WHEN queues.paused OR queues.slots = 0 THEN 'paused'
                WHEN waiting.runtime IS NOT NULL AND NOT EXISTS (
                       SELECT FROM dispatchers
                        WHERE seen_at > now() - interval '15 seconds' AND waiting.runtime = ANY (runtimes)) THEN 'no_runtime'
                WHEN running.id IS NOT NULL THEN 'concurrency'
                ELSE 'queued' END AS reason,
           CASE WHEN queues.paused OR queues.slots = 0 THEN 'the queue ' || queues.name || ' is paused'
                WHEN waiting.runtime IS NOT NULL AND NOT EXISTS (
                       SELECT FROM dispatchers
                        WHERE seen_at > now() - interval '15 seconds' AND waiting.runtime = ANY (runtimes))
                  THEN 'no dispatcher offers the runtime ' || waiting.runtime
                WHEN running.id IS NOT NULL THEN 'the key ' || waiting.concurrency_key || ' is held by task ' || running.id
                END AS detail
      FROM tasks AS waiting
      JOIN queues ON queues.name = waiting.priority
      LEFT JOIN tasks AS running
        ON waiting.concurrency_key IS NOT NULL AND running.status = 'active'
       AND running.team_id = waiting.team_id AND running.concurrency_key = waiting.concurrency_key
     WHERE waiting.status = 'pending' AND waiting.due_at <= now()
  ) AS now_is
 WHERE tasks.id = now_is.id
   AND tasks.status = 'pending'
   AND (tasks.reason, tasks.reason_detail) IS DISTINCT FROM (now_is.reason, now_is.detail)

-- name: announce
INSERT INTO dispatchers (id, host, pid, runtimes, isolation)
VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (id) DO UPDATE SET seen_at = now(), runtimes = excluded.runtimes, isolation = excluded.isolation

-- name: leave
DELETE FROM dispatchers
 WHERE id = $1

-- name: forget_dead
DELETE FROM dispatchers
 WHERE seen_at < now() - interval '1 hour'
   AND NOT EXISTS (SELECT FROM attempts WHERE dispatcher_id = dispatchers.id AND status = 'active')

-- name: set_slots
UPDATE queues
   SET slots = $2
 WHERE name = $1

-- name: depth
SELECT queues.name, slots,
       (SELECT count(*) FROM tasks WHERE priority = queues.name AND status = 'pending') AS pending,
       (SELECT count(*) FROM attempts WHERE queue = queues.name AND status = 'active') AS active
  FROM queues
