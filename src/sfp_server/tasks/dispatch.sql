-- name: exchange
-- End attempts ($1, an array of `ending`) and take what waits, $6 tasks at most: first rows with `ended` alone, one for each
-- attempt that was the current one, then the tasks that are ours now.
SELECT ended, (task).*
  FROM finish_and_claim($1, $2, $3, $4, $5, $6)

-- name: unheard
-- Tasks that are claimed for us, other than those we know of: the answer to their claim never came.
SELECT *
  FROM unheard($1, $2)

-- name: finish
-- Tasks of which the attempt, in an array of `ending`, has ended by this; one that is missing was not at that attempt.
SELECT finish($1)

-- name: progress
SELECT progress($1, $2, $3, $4)

-- name: log_lines
SELECT log_lines($1, $2, $3, $4)

-- name: save_handle
SELECT save_handle($1, $2, $3, $4)

-- name: add_ticket
SELECT add_ticket($1, $2, $3)

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
SELECT *
  FROM renew($1, $2)

-- name: expired
-- Attempts whose lease ran out, by the database's clock, with what decides what becomes of their task.
SELECT attempts.task_id, attempts.attempt, attempts.team_id, attempts.lease_expires_at, tasks.max_attempts,
       tasks.retry_config, tasks.preemptions, tasks.cancel_requested_at
  FROM attempts
  JOIN tasks ON tasks.id = attempts.task_id
 WHERE attempts.status = 'active'
   AND attempts.lease_expires_at < now()
 ORDER BY attempts.lease_expires_at
 LIMIT 100

-- name: abandoned
-- Attempts of a dispatcher that no longer exists on this host: their workers died with it.
SELECT *
  FROM abandoned($1, $2)

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
   AND schedule_type <> 'recurring'
   AND due_at <= now()
RETURNING id

-- name: overdue
-- In line for longer than its queue timeout allows: since it is due, not while it waits for its time. What made room for
-- others had started in time.
UPDATE tasks
   SET status = 'failed', reason = NULL, reason_detail = NULL, finished_at = now(), error = $1
 WHERE status = 'pending'
   AND id = (SELECT id FROM tasks
              WHERE status = 'pending' AND queue_timeout_seconds IS NOT NULL AND schedule_type <> 'recurring'
                AND due_at < now()
                AND greatest(due_at, created_at) + make_interval(secs => queue_timeout_seconds) < now()
                AND (started_at IS NULL OR due_at > started_at)
              ORDER BY due_at LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING *

-- name: tell_overdue
SELECT free_keys(ARRAY[id]), tell_task(tasks, 'task.failed')
  FROM tasks
 WHERE id = $1

-- name: explain
-- Keep the reasons of due tasks true: the first that applies, in this order. Touches only what changed. (A task that has a
-- reason is pending; asked for by its status, PostgreSQL would join every pending task with every other.) Of those that
-- share a free key one is in line, the others wait for it; who holds a key is looked up when somebody asks.
WITH alive AS (
  SELECT runtimes, toolchains FROM dispatchers WHERE seen_at > now() - interval '15 seconds'
), able AS (  -- what one dispatcher has together; '' stands for tasks that ask for nothing
  SELECT DISTINCT runtime, toolchain
    FROM alive,
         unnest(array_append(runtimes, '')) AS runtime,
         LATERAL (SELECT jsonb_object_keys(toolchains) UNION ALL SELECT '') AS has (toolchain)
), load AS (
  SELECT team_id, count(*) AS active FROM attempts WHERE status = 'active' GROUP BY team_id
), waiting AS (
  SELECT tasks.*, queues.paused OR queues.slots = 0 AS is_paused,
         (tasks.runtime IS NOT NULL OR tasks.toolchain IS NOT NULL) AND able.runtime IS NULL AS is_unable
    FROM tasks
    JOIN queues ON queues.name = tasks.priority
    LEFT JOIN able ON able.runtime = coalesce(tasks.runtime, '') AND able.toolchain = coalesce(tasks.toolchain, '')
   WHERE status = 'pending' AND due_at <= now() AND schedule_type <> 'recurring'
), of_keys AS (
  SELECT waiting.id,
         held_keys.task_id IS NOT NULL
         OR row_number() OVER (PARTITION BY waiting.team_id, concurrency_key, is_paused OR is_unable
                               ORDER BY array_position(ARRAY['critical', 'normal', 'batch'], priority), due_at, id) > 1
           AS is_blocked
    FROM waiting
    LEFT JOIN held_keys ON held_keys.team_id = waiting.team_id AND held_keys.key = concurrency_key
   WHERE concurrency_key IS NOT NULL
), now_is AS (
  SELECT waiting.id,
         CASE WHEN is_paused THEN 'paused'
              WHEN is_unable THEN 'no_runtime'
              WHEN is_blocked THEN 'concurrency'
              WHEN $1 > 0 AND load.active >= $1 THEN 'quota'
              ELSE 'queued' END AS reason,
         CASE WHEN is_paused THEN 'the queue ' || waiting.priority || ' is paused'
              WHEN is_unable
                THEN 'no dispatcher ' || concat_ws(' and ', 'offers the runtime ' || waiting.runtime,
                                                   'has the toolchain ' || waiting.toolchain)
              WHEN is_blocked THEN 'tasks with the key ' || waiting.concurrency_key || ' run one after another'
              WHEN $1 > 0 AND load.active >= $1 THEN 'the team runs ' || load.active || ' tasks; its limit is ' || $1
              WHEN waiting.preemptions > 0 AND waiting.due_at <= waiting.started_at
                THEN 'made room for more urgent work; it runs again' END AS detail
    FROM waiting
    LEFT JOIN load ON load.team_id = waiting.team_id
    LEFT JOIN of_keys ON of_keys.id = waiting.id
)
UPDATE tasks
   SET reason = now_is.reason, reason_detail = now_is.detail
  FROM now_is
 WHERE tasks.id = now_is.id
   AND tasks.reason IS NOT NULL
   AND (tasks.reason, tasks.reason_detail) IS DISTINCT FROM (now_is.reason, now_is.detail)

-- name: announce
SELECT announce($1, $2, $3, $4, $5, $6, $7, $8)

-- name: leave
SELECT leave($1)

-- name: forget_dead
DELETE FROM dispatchers
 WHERE seen_at < now() - interval '1 hour'
   AND NOT EXISTS (SELECT FROM attempts WHERE dispatcher_id = dispatchers.id AND status = 'active')

-- name: set_slots
-- What the configuration says counts when it has changed; what was set while running stays otherwise.
UPDATE queues
   SET slots = $2, configured = $2
 WHERE name = $1
   AND configured IS DISTINCT FROM $2

-- name: alive
-- Dispatchers that were heard of lately, the instance's own first.
SELECT name, host, version, slots, runtimes, toolchains, seen_at,
       (SELECT count(*) FROM attempts WHERE dispatcher_id = dispatchers.id AND status = 'active') AS active
  FROM dispatchers
 WHERE seen_at > now() - interval '1 minute'
 ORDER BY enrolment NULLS FIRST, name


-- name: depth
SELECT queues.name, slots,
       (SELECT count(*) FROM tasks WHERE priority = queues.name AND status = 'pending') AS pending,
       (SELECT count(*) FROM attempts WHERE queue = queues.name AND status = 'active') AS active
  FROM queues

-- name: due_schedule
-- A series whose next occurrence is due, held until the transaction ends; others take others.
SELECT schedules.task_id, schedules.team_id, schedules.config, schedules.next_at, schedules.runs, now() AS now,
       tasks.created_at
  FROM schedules
  JOIN tasks ON tasks.id = schedules.task_id
 WHERE schedules.next_at <= now()
   AND tasks.status = 'pending'
 ORDER BY schedules.next_at
 LIMIT 1
   FOR UPDATE OF schedules SKIP LOCKED

-- name: is_running
SELECT EXISTS (SELECT FROM tasks WHERE series_id = $1 AND status IN ('pending', 'active'))

-- name: add_occurrence
-- No row: this occurrence was made already.
INSERT INTO occurrences (series_id, at, team_id)
VALUES ($1, $2, current_team())
    ON CONFLICT DO NOTHING
RETURNING at

-- name: run_occurrence
WITH made AS (
  INSERT INTO tasks (team_id, type, data, priority, schedule_type, labels, max_attempts, retry_config, timeout_seconds,
                     queue_timeout_seconds, lease_seconds, concurrency_key, runtime, toolchain, network, limits, credentials,
                     created_by, created_by_name, request_id, series_id)
  SELECT team_id, type, data, priority, 'immediate', labels, max_attempts, retry_config, timeout_seconds,
         queue_timeout_seconds, lease_seconds, coalesce(concurrency_key, $2), runtime, toolchain, network, limits, credentials,
         created_by, created_by_name, request_id, id
    FROM tasks
   WHERE id = $1
  RETURNING *
), told AS (
  SELECT tell_task(made, 'task.created'), pg_notify('sfp_tasks', made.priority) FROM made
)
SELECT made.id
  FROM made, told

-- name: move_schedule
UPDATE schedules
   SET next_at = $2, runs = runs + $3, skipped = skipped + $4, latest_run = coalesce($5, latest_run)
 WHERE task_id = $1

-- name: plan_next
-- The next occurrence of a series, as its waiting task shows it.
UPDATE tasks
   SET due_at = $2
 WHERE id = $1
   AND status = 'pending'

-- name: break_series
-- A series whose rhythm cannot be read: it must not stop the others.
WITH stopped AS (
  UPDATE schedules
     SET next_at = NULL
   WHERE task_id = $1
), ended AS (
  UPDATE tasks
     SET status = 'failed', reason = NULL, reason_detail = NULL, finished_at = now(), error = $2
   WHERE id = $1
     AND status = 'pending'
  RETURNING *
)
SELECT tell_task(ended, 'task.failed')
  FROM ended

-- name: end_series
WITH ended AS (
  UPDATE tasks
     SET status = 'completed', reason = NULL, reason_detail = NULL, finished_at = now()
   WHERE id = $1
     AND status = 'pending'
  RETURNING *
)
SELECT tell_task(ended, 'task.completed')
  FROM ended

-- name: make_partitions
SELECT make_partitions()

-- name: drop_old_events
SELECT drop_old_events(now() - make_interval(days => $1))

-- name: drop_old_tasks
SELECT drop_old_tasks(now() - make_interval(days => $1))

-- name: database_time
SELECT extract(epoch FROM clock_timestamp())::float8

-- name: due_again
-- The clock was set back: what waits in line is due, whatever the time was when it came.
UPDATE tasks
   SET due_at = now()
 WHERE status = 'pending'
   AND schedule_type <> 'recurring'
   AND reason NOT IN ('scheduled', 'retry')
   AND due_at > now()

-- name: retry_again
-- The clock was set back: no retry waits longer than it had to.
WITH longest AS (
  SELECT id, make_interval(secs => least(
           (retry_config ->> 'maxDelaySeconds')::float8,
           (retry_config ->> 'delaySeconds')::float8
             * CASE retry_config ->> 'backoff' WHEN 'exponential' THEN 2.0 ^ least(attempt, 40) ELSE 1 END)) AS delay
    FROM tasks
   WHERE status = 'pending'
     AND reason = 'retry'
)
UPDATE tasks
   SET due_at = now() + longest.delay
  FROM longest
 WHERE tasks.id = longest.id
   AND tasks.status = 'pending'
   AND tasks.reason = 'retry'
   AND tasks.due_at > now() + longest.delay

-- name: lease_again
-- The clock was set back: no lease is longer than one.
UPDATE attempts
   SET lease_expires_at = now() + make_interval(secs => tasks.lease_seconds)
  FROM tasks
 WHERE tasks.id = attempts.task_id
   AND attempts.status = 'active'
   AND attempts.lease_expires_at > now() + make_interval(secs => tasks.lease_seconds)

-- name: turn_again
-- The clock was set back: nobody was served in the future.
UPDATE turns
   SET served_at = now()
 WHERE served_at > now()

-- name: seen_again
-- The clock was set back: who is alive says so again soon.
UPDATE dispatchers
   SET seen_at = now()
 WHERE seen_at > now()
