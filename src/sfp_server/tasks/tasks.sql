-- name: submit
-- Store a task; $22: tell its event and wake the dispatchers. All when, and only when, the transaction commits.
WITH made AS (
  INSERT INTO tasks (team_id, type, data, priority, schedule_type, labels, reason, due_at, max_attempts, retry_config,
                     timeout_seconds, queue_timeout_seconds, lease_seconds, concurrency_key, runtime, network,
                     limits, credentials, created_by, created_by_name, request_id, retry_of, toolchain)
  VALUES (current_team(), $1, $2, $3, $4, $5,
          CASE WHEN $4 = 'recurring' OR $6::timestamptz > now() THEN 'scheduled' ELSE 'queued' END,
          coalesce($6::timestamptz, now()), $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21)
  RETURNING *
), told AS (
  SELECT tell_task(made, 'task.created'), pg_notify('sfp_tasks', made.priority) FROM made WHERE $22
)
SELECT made.*
  FROM made
  LEFT JOIN told ON true

-- name: tell_created
-- What `submit` tells, of many tasks at once.
SELECT tell_tasks(current_team(), $1, 'task.created'), pg_notify('sfp_tasks', 'created')

-- name: get
-- One task. A due one says that nobody could run it when no dispatcher is alive. No row: unknown, or not yours.
SELECT tasks.*,
       status = 'pending' AND due_at <= now()
         AND NOT EXISTS (SELECT FROM dispatchers WHERE seen_at > now() - interval '15 seconds') AS nobody_runs,
       (SELECT task_id FROM held_keys
         WHERE status = 'pending' AND held_keys.team_id = tasks.team_id AND key = concurrency_key) AS held_by
  FROM tasks
 WHERE id = $1

-- name: now
SELECT now()

-- name: retries
-- Tasks that repeat this one.
SELECT id
  FROM tasks
 WHERE retry_of = $1
 ORDER BY id
 LIMIT 100

-- name: attempts
SELECT attempt, status, queue, runtime, dispatcher_id, task_id || '/' || attempt AS worker, started_at, ended_at,
       exit_code, signal, error, usage, first_seq, last_seq
  FROM attempts
 WHERE task_id = $1
 ORDER BY attempt

-- name: list
-- Newest first; $7 is the last id of the previous page.
SELECT tasks.*, false AS nobody_runs,
       (SELECT task_id FROM held_keys
         WHERE status = 'pending' AND held_keys.team_id = tasks.team_id AND key = concurrency_key) AS held_by
  FROM list_tasks($1, $2, $3, $4, $5, $6, $7, $8) AS tasks

-- name: lock
-- The task's state, held until the transaction ends. No row: unknown, or not yours.
SELECT id, status, created_by, priority, attempt
  FROM tasks
 WHERE id = $1
   FOR UPDATE

-- name: cancel_pending
WITH ended AS (
  UPDATE tasks
     SET status = 'cancelled', reason = NULL, reason_detail = NULL, finished_at = now(), cancelled_by = $2,
         error = $3
   WHERE id = $1
     AND status = 'pending'
  RETURNING *
)
SELECT tell_task(ended, 'task.cancelled')
  FROM ended

-- name: free_key
SELECT free_keys(ARRAY[$1::uuid])

-- name: ask_to_cancel
UPDATE tasks
   SET cancel_requested_at = coalesce(cancel_requested_at, now()), cancelled_by = coalesce(cancelled_by, $2)
 WHERE id = $1
   AND status = 'active'

-- name: wake_canceller
SELECT pg_notify('sfp_tasks', 'cancel ' || $1::uuid)

-- name: logs
-- Log lines by their number in the task's channel.
SELECT seq, at, data
  FROM events
 WHERE channel = 'task:' || $1::uuid
   AND event = 'task.log'
   AND seq > $2
   AND ($3::timestamptz IS NULL OR at >= $3)
   AND ($4::timestamptz IS NULL OR at < $4)
   AND ($6::int IS NULL OR (data ->> 'attempt')::int = $6)
   AND NOT data ? 'deleted'
 ORDER BY seq
 LIMIT $5

-- name: delete_logs
-- The lines' numbers stay, so that the channel has no holes; what they said is gone.
UPDATE events
   SET data = '{"deleted": true}'
 WHERE channel = 'task:' || $1::uuid
   AND event = 'task.log'
   AND NOT data ? 'deleted'

-- name: queues
SELECT queues.name, slots, paused,
       (SELECT count(*) FROM tasks WHERE priority = queues.name AND status = 'pending') AS pending,
       (SELECT count(*) FROM tasks WHERE priority = queues.name AND status = 'active') AS active
  FROM queues
 ORDER BY array_position(ARRAY['critical', 'normal', 'batch'], name)

-- name: add_artifact
INSERT INTO artifacts (id, team_id, task_id, attempt, name, size, sha256, content_type, created_by)
VALUES ($1, current_team(), $2, $3, $4, $5, $6, $7, $8)
RETURNING *

-- name: get_artifact
SELECT *
  FROM artifacts
 WHERE id = $1

-- name: task_artifacts
-- Kept files of a task's latest attempt that kept any.
SELECT *
  FROM artifacts
 WHERE task_id = $1
   AND attempt = (SELECT max(attempt) FROM artifacts WHERE task_id = $1)
 ORDER BY name

-- name: task_artifact
SELECT *
  FROM artifacts
 WHERE task_id = $1
   AND name = $2
 ORDER BY attempt DESC
 LIMIT 1

-- name: delete_artifact
-- No row: unknown, not yours, or kept by a task.
DELETE FROM artifacts
 WHERE id = $1
   AND task_id IS NULL
RETURNING id

-- name: waiting
-- How many tasks of the team wait, counted up to a limit.
SELECT count(*)
  FROM (SELECT FROM tasks WHERE status = 'pending' LIMIT $1) AS counted

-- name: copy
-- A new task with the input of an old one. No row: unknown, or not yours.
WITH made AS (
  INSERT INTO tasks (team_id, type, data, priority, schedule_type, labels, max_attempts, retry_config, timeout_seconds,
                     queue_timeout_seconds, lease_seconds, concurrency_key, runtime, toolchain, network, limits, credentials,
                     created_by, created_by_name, request_id, retry_of)
  SELECT team_id, type, data, priority, 'immediate', labels, max_attempts, retry_config, timeout_seconds,
         queue_timeout_seconds, lease_seconds, concurrency_key, runtime, toolchain, network, limits, credentials, $2, $3, $4, id
    FROM tasks
   WHERE id = $1
  RETURNING *
), told AS (
  SELECT tell_task(made, 'task.created'), pg_notify('sfp_tasks', made.priority) FROM made
)
SELECT made.*
  FROM made, told

-- name: add_schedule
INSERT INTO schedules (task_id, team_id, config, next_at)
VALUES ($1, current_team(), $2, $3)

-- name: schedule
-- A recurring task's rhythm. No row: it is not recurring, unknown, or not yours.
SELECT config, next_at, runs, skipped, latest_run
  FROM schedules
 WHERE task_id = $1

-- name: stop_schedule
UPDATE schedules
   SET next_at = NULL
 WHERE task_id = $1

-- name: instances
-- Runs of a series, newest first; $2 is the last id of the previous page.
SELECT tasks.*, false AS nobody_runs,
       (SELECT task_id FROM held_keys
         WHERE status = 'pending' AND held_keys.team_id = tasks.team_id AND key = concurrency_key) AS held_by
  FROM tasks
 WHERE series_id = $1
   AND ($2::uuid IS NULL OR id < $2)
 ORDER BY id DESC
 LIMIT $3

-- name: set_queue
UPDATE queues
   SET slots = coalesce($2, slots), paused = coalesce($3, paused)
 WHERE name = $1

-- name: wake_dispatchers
SELECT pg_notify('sfp_tasks', $1::text)

-- name: place
-- Where a waiting task stands, and how fast its queue has been: numbers only, of all teams.
SELECT *
  FROM place_in_line($1)

-- name: dispatchers
-- The instance's own first. `alive`: it said so lately.
SELECT id, name, host, version, slots, runtimes, toolchains, isolation, started_at, seen_at, enrolment IS NOT NULL AS remote,
       seen_at > now() - interval '15 seconds' AS alive
  FROM dispatchers
 WHERE seen_at > now() - interval '1 hour'
 ORDER BY enrolment NULLS FIRST, name, started_at
