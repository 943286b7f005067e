-- The steps of a task's life that must see what others committed a moment ago: each statement inside a
-- PL/pgSQL function has its own snapshot, which one big statement with CTEs would not have.

SET lock_timeout = '5s';
SET ROLE sfp_migrator;
SET search_path = sfp;

-- What every event of a task tells.
CREATE FUNCTION task_facts(task tasks) RETURNS jsonb LANGUAGE sql STABLE SET search_path = sfp AS $$
  SELECT jsonb_build_object(
    'operationId', task.id, 'type', task.type, 'status', task.status, 'reason', task.reason,
    'priority', task.priority, 'attempt', task.attempt, 'progress', task.progress, 'step', task.step,
    'error', task.error)
$$;

-- Tell a task's event on its own channel, its queue's and the team's. Call it last: it locks channels.
CREATE FUNCTION tell_task(task tasks, event_name text) RETURNS void LANGUAGE sql VOLATILE SET search_path = sfp AS $$
  SELECT record_event(task.team_id, ARRAY['task:' || task.id, 'tasks', 'queue:' || task.priority], event_name,
                      task_facts(task))
$$;

-- A queue's slots (none while it is paused) and its running attempts. Capacity is counted, never kept: nothing can leak.
CREATE FUNCTION queue_use(of_queue text, OUT slots int, OUT busy int) LANGUAGE sql VOLATILE SET search_path = sfp AS $$
  SELECT CASE WHEN paused THEN 0 ELSE queues.slots END,
         (SELECT count(*)::int FROM attempts WHERE queue = of_queue AND status = 'active')
    FROM queues
   WHERE name = of_queue
$$;

-- Whether normal or batch work waits since long for a slot that is its queue's own: critical then borrows none, so that
-- a stream of it starves nobody.
CREATE FUNCTION is_owed() RETURNS boolean LANGUAGE sql VOLATILE SET search_path = sfp AS $$
  SELECT EXISTS (
    SELECT FROM unnest(ARRAY['normal', 'batch']) AS name, queue_use(name) AS queue
     WHERE queue.busy < queue.slots
       AND EXISTS (SELECT FROM tasks
                    WHERE priority = name AND status = 'pending' AND reason = 'queued' AND schedule_type <> 'recurring'
                      AND due_at < now() - interval '30 seconds'))
$$;

-- How the slots are shared, as of now; the caller holds the queues' rows. `shared` is what normal and batch have
-- together; critical's own slots are never lent, so it always has a free lane or runs something critical.
CREATE FUNCTION has_room(for_queue text) RETURNS boolean LANGUAGE sql VOLATILE SET search_path = sfp AS $$
  SELECT CASE for_queue
           WHEN 'critical' THEN critical.slots > 0
             AND (critical.busy < critical.slots OR taken < shared AND NOT is_owed())
           WHEN 'normal' THEN normal.busy < normal.slots AND taken < shared
           WHEN 'batch' THEN batch.slots > 0 AND taken < shared
             AND (batch.busy < batch.slots OR NOT EXISTS (  -- beyond its own: only what nobody else waits for
                   SELECT FROM tasks
                    WHERE priority IN ('critical', 'normal') AND status = 'pending' AND reason = 'queued'
                      AND schedule_type <> 'recurring' AND due_at <= now()))
         END
    FROM queue_use('critical') AS critical,
         queue_use('normal') AS normal,
         queue_use('batch') AS batch,
         LATERAL (SELECT normal.slots + batch.slots AS shared,
                         normal.busy + batch.busy + greatest(0, critical.busy - critical.slots) AS taken) AS sums
$$;

-- The task whose turn it is: of the team that was served longest ago, its first that can run here. NULL: none.
CREATE FUNCTION next_task(from_queue text, on_runtimes text[], team_limit int) RETURNS uuid
LANGUAGE sql VOLATILE SET search_path = sfp AS $$
  WITH RECURSIVE waiting (team_id) AS (  -- each team once, without reading all its tasks
    (SELECT team_id FROM tasks
      WHERE priority = from_queue AND status = 'pending' AND schedule_type <> 'recurring'
      ORDER BY team_id LIMIT 1)
    UNION ALL
    SELECT (SELECT tasks.team_id FROM tasks
             WHERE priority = from_queue AND status = 'pending' AND schedule_type <> 'recurring'
               AND tasks.team_id > waiting.team_id
             ORDER BY tasks.team_id LIMIT 1)
      FROM waiting
     WHERE waiting.team_id IS NOT NULL
  )
  SELECT head.id
    FROM waiting
    LEFT JOIN turns ON turns.queue = from_queue AND turns.team_id = waiting.team_id
   CROSS JOIN LATERAL (
         SELECT id, due_at
           FROM tasks
          WHERE priority = from_queue AND status = 'pending' AND schedule_type <> 'recurring'
            AND team_id = waiting.team_id AND due_at <= now()
            AND (runtime IS NULL OR runtime = ANY (on_runtimes))
            AND (concurrency_key IS NULL OR NOT EXISTS (
                  SELECT FROM held_keys WHERE held_keys.team_id = tasks.team_id AND key = concurrency_key))
          ORDER BY due_at, id
          LIMIT 1) AS head
   WHERE team_limit = 0
      OR (SELECT count(*) FROM attempts WHERE status = 'active' AND attempts.team_id = waiting.team_id) < team_limit
   ORDER BY turns.served_at NULLS FIRST, head.due_at
   LIMIT 1
$$;

-- Ask the newest batch attempt that runs on lent capacity to make room. The asked one is put back in line by its
-- dispatcher; a task is asked at most `at_most` times in its life, so that long work ends too.
CREATE FUNCTION ask_for_room(for_queue text, at_most int) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = sfp AS $$
DECLARE
  asked uuid;
BEGIN
  IF for_queue = 'batch' OR EXISTS (
       SELECT FROM attempts WHERE queue = 'batch' AND status = 'active' AND preempt_asked_at IS NOT NULL) THEN
    RETURN;  -- room is being made already
  END IF;
  IF for_queue = 'critical' AND is_owed() THEN
    RETURN;  -- what becomes free is somebody else's
  END IF;
  IF for_queue = 'normal' AND NOT EXISTS (
       SELECT FROM queue_use('normal') AS normal, queue_use('batch') AS batch
        WHERE normal.busy < normal.slots AND batch.busy > batch.slots) THEN
    RETURN;  -- normal has what is its own
  END IF;
  UPDATE attempts SET preempt_asked_at = now()
   WHERE (task_id, attempt) = (
         SELECT attempts.task_id, attempts.attempt
           FROM attempts
           JOIN tasks ON tasks.id = attempts.task_id
          WHERE queue = 'batch' AND attempts.status = 'active' AND tasks.preemptions < at_most
          ORDER BY attempts.started_at DESC
          LIMIT 1)
  RETURNING task_id INTO asked;
  IF asked IS NOT NULL THEN
    PERFORM pg_notify('sfp_tasks', 'preempt ' || asked);
  END IF;
END $$;

-- Give the next waiting task of a queue to a dispatcher, if there is room. No row: nothing to run now.
-- The queues' rows are locked first, in the order of their names, so that claims see each other's. (NO KEY: a submission
-- holds a key share of its queue's row through its foreign key, and must not wait for us, nor we for it.)
CREATE FUNCTION claim(from_queue text, by_dispatcher uuid, on_runtimes text[], team_limit int, preemptions_at_most int)
RETURNS SETOF tasks LANGUAGE plpgsql VOLATILE SET search_path = sfp AS $$
DECLARE
  candidate uuid;
  claimed   tasks;
BEGIN
  -- Before the lock: it would cost each of an idle dispatcher's looks a write to the disk.
  PERFORM FROM tasks
    WHERE priority = from_queue AND status = 'pending' AND schedule_type <> 'recurring' AND due_at <= now() LIMIT 1;
  IF NOT FOUND THEN
    RETURN;
  END IF;
  PERFORM FROM queues ORDER BY name FOR NO KEY UPDATE;
  candidate := next_task(from_queue, on_runtimes, team_limit);
  IF candidate IS NULL OR EXISTS (SELECT FROM queues WHERE name = from_queue AND (paused OR slots = 0)) THEN
    RETURN;
  END IF;
  IF NOT has_room(from_queue) THEN
    PERFORM ask_for_room(from_queue, preemptions_at_most);
    RETURN;
  END IF;
  SELECT * INTO claimed FROM tasks WHERE id = candidate AND status = 'pending' FOR UPDATE SKIP LOCKED;
  IF NOT FOUND THEN
    RETURN;  -- it is being cancelled: look again
  END IF;
  PERFORM set_config('sfp.team_id', claimed.team_id::text, true);
  IF claimed.concurrency_key IS NOT NULL THEN
    INSERT INTO held_keys (team_id, key, task_id) VALUES (claimed.team_id, claimed.concurrency_key, claimed.id);
  END IF;
  INSERT INTO turns (queue, team_id, served_at) VALUES (from_queue, claimed.team_id, clock_timestamp())
  ON CONFLICT (queue, team_id) DO UPDATE SET served_at = excluded.served_at;
  UPDATE tasks
     SET status = 'active', reason = NULL, reason_detail = NULL, attempt = attempt + 1, progress = 0, step = '',
         started_at = coalesce(started_at, clock_timestamp())
   WHERE id = claimed.id
  RETURNING * INTO claimed;
  INSERT INTO attempts (task_id, attempt, team_id, queue, dispatcher_id, runtime, lease_expires_at, first_seq)
  VALUES (claimed.id, claimed.attempt, claimed.team_id, from_queue, by_dispatcher, coalesce(claimed.runtime, on_runtimes[1]),
          now() + make_interval(secs => claimed.lease_seconds),
          (SELECT last_seq FROM channels WHERE team_id = claimed.team_id AND name = 'task:' || claimed.id));
  PERFORM tell_task(claimed, 'task.started');
  RETURN NEXT claimed;
END $$;

-- The next task of the most urgent queue that has one and room for it. No row: nothing to run now.
-- (Generic plans here and in `finish`: PostgreSQL would plan anew for each task, which takes longer than to run it.)
CREATE FUNCTION claim_any(by_dispatcher uuid, on_runtimes text[], team_limit int, preemptions_at_most int)
RETURNS SETOF tasks LANGUAGE plpgsql VOLATILE SET search_path = sfp
SET plan_cache_mode = force_generic_plan AS $$
DECLARE
  from_queue text;
BEGIN
  FOREACH from_queue IN ARRAY ARRAY['critical', 'normal', 'batch'] LOOP
    RETURN QUERY SELECT * FROM claim(from_queue, by_dispatcher, on_runtimes, team_limit, preemptions_at_most);
    IF FOUND THEN
      RETURN;
    END IF;
  END LOOP;
END $$;

-- End an attempt: result, state, credentials and event in one step. False: the attempt is not the current one.
-- `retry_after` (seconds) puts the task back in line instead of ending it; so does `attempt_status` preempted, which
-- does not count as a try. A task whose cancelling was asked for before ends as cancelled, whatever its worker says.
CREATE FUNCTION finish(of_task uuid, of_attempt int, as_status text, with_error jsonb, with_result jsonb,
                       with_exit int, with_signal int, with_usage jsonb, attempt_status text, retry_after double precision)
RETURNS boolean LANGUAGE plpgsql VOLATILE SET search_path = sfp SET plan_cache_mode = force_generic_plan AS $$
DECLARE
  ended tasks;
BEGIN
  IF attempt_status = 'preempted' THEN
    UPDATE tasks
       SET status = 'pending', reason = 'queued', reason_detail = 'made room for more urgent work; it runs again',
           preemptions = preemptions + 1, progress = 0, step = ''
     WHERE id = of_task AND attempt = of_attempt AND status = 'active' AND cancel_requested_at IS NULL
    RETURNING * INTO ended;
  ELSIF retry_after IS NOT NULL THEN
    UPDATE tasks
       SET status = 'pending', reason = 'retry', error = with_error, result = NULL,
           reason_detail = 'attempt ' || of_attempt - preemptions || ' of ' || max_attempts || ' ended: '
                           || (with_error ->> 'message'),
           due_at = now() + make_interval(secs => retry_after)
     WHERE id = of_task AND attempt = of_attempt AND status = 'active' AND cancel_requested_at IS NULL
    RETURNING * INTO ended;
  END IF;
  IF ended.id IS NULL THEN
    UPDATE tasks
       SET status = CASE WHEN cancel_requested_at IS NULL THEN as_status ELSE 'cancelled' END,
           error = CASE WHEN cancel_requested_at IS NULL THEN with_error
                        ELSE '{"code": "cancelled", "message": "cancelled while it was running", "retryable": false}' END,
           result = with_result, finished_at = clock_timestamp(),
           progress = CASE WHEN as_status = 'completed' THEN 100 ELSE progress END
     WHERE id = of_task AND attempt = of_attempt AND status = 'active'
       AND (cancel_requested_at IS NOT NULL OR (retry_after IS NULL AND attempt_status <> 'preempted'))
    RETURNING * INTO ended;
  END IF;
  IF ended.id IS NULL THEN
    RETURN false;
  END IF;
  PERFORM set_config('sfp.team_id', ended.team_id::text, true);
  UPDATE attempts
     SET status = CASE WHEN ended.status = 'cancelled' AND attempt_status <> 'lost' THEN 'cancelled'
                       ELSE attempt_status END,
         ended_at = clock_timestamp(), exit_code = with_exit, signal = with_signal, error = with_error,
         usage = with_usage,
         last_seq = (SELECT last_seq FROM channels WHERE team_id = ended.team_id AND name = 'task:' || of_task)
   WHERE task_id = of_task AND attempt = of_attempt;
  DELETE FROM held_keys WHERE team_id = ended.team_id AND key = ended.concurrency_key AND task_id = of_task;
  UPDATE leases SET ended_at = now() WHERE task_id = of_task AND attempt = of_attempt AND ended_at IS NULL;
  DELETE FROM worker_tickets WHERE task_id = of_task AND attempt = of_attempt;
  PERFORM pg_notify('sfp_tasks', ended.priority);
  PERFORM tell_task(ended, CASE WHEN ended.status = 'pending' THEN 'task.retrying' ELSE 'task.' || ended.status END);
  RETURN true;
END $$;

-- Progress of the current attempt. False: the attempt is not the current one.
CREATE FUNCTION progress(of_task uuid, of_attempt int, percent int, with_step text) RETURNS boolean
LANGUAGE plpgsql VOLATILE SET search_path = sfp AS $$
DECLARE
  moved tasks;
BEGIN
  UPDATE tasks SET progress = percent, step = with_step
   WHERE id = of_task AND attempt = of_attempt AND status = 'active'
  RETURNING * INTO moved;
  IF moved.id IS NULL THEN
    RETURN false;
  END IF;
  PERFORM set_config('sfp.team_id', moved.team_id::text, true);
  PERFORM record_event(moved.team_id, ARRAY['task:' || of_task], 'task.progress', task_facts(moved));
  RETURN true;
END $$;

-- Log lines of the current attempt, in order, of which `after` came before: a batch that was written unheard (the answer
-- was lost with the connection) is not written again. Answers how many lines there are; NULL: not the current attempt.
CREATE FUNCTION log_lines(of_task uuid, of_attempt int, after bigint, lines jsonb[]) RETURNS bigint
LANGUAGE plpgsql VOLATILE SET search_path = sfp AS $$
DECLARE
  of_team uuid;
  written bigint;
BEGIN
  UPDATE attempts SET logged = after + cardinality(lines)
   WHERE task_id = of_task AND attempt = of_attempt AND status = 'active' AND logged = after
  RETURNING team_id, logged INTO of_team, written;
  IF NOT FOUND THEN
    RETURN (SELECT logged FROM attempts WHERE task_id = of_task AND attempt = of_attempt AND status = 'active');
  END IF;
  PERFORM set_config('sfp.team_id', of_team::text, true);
  PERFORM record_batch(of_team, 'task:' || of_task, 'task.log', lines);
  RETURN written;
END $$;

RESET ROLE;
RESET search_path;
