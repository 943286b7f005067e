-- The steps of a task's life that must see what others committed a moment ago: each statement inside a
-- PL/pgSQL function has its own snapshot, which one big statement with CTEs would not have.

SET lock_timeout = '5s';
SET ROLE sfp_migrator;
SET search_path = sfp;

-- Two active tasks never share a concurrency key, whichever queues they came through.
CREATE UNIQUE INDEX tasks_one_active_per_key ON tasks (team_id, concurrency_key)
  WHERE status = 'active' AND concurrency_key IS NOT NULL;

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

-- Give the next waiting task of a queue to a dispatcher, if a slot is free. No row: nothing to run now.
-- Capacity is counted from active attempts under the queue's row lock: there is no counter that could leak. (NO KEY: a
-- submission holds a key share of that row through its foreign key, and must not wait for us, nor we for it.)
CREATE FUNCTION claim(from_queue text, by_dispatcher uuid, on_runtimes text[]) RETURNS SETOF tasks
LANGUAGE plpgsql VOLATILE SET search_path = sfp AS $$
DECLARE
  capacity int;
  busy     int;
  claimed  tasks;
BEGIN
  SELECT slots INTO capacity FROM queues WHERE name = from_queue AND NOT paused FOR NO KEY UPDATE;
  SELECT count(*) INTO busy FROM attempts WHERE queue = from_queue AND status = 'active';
  IF capacity IS NULL OR busy >= capacity THEN
    RETURN;
  END IF;
  SELECT * INTO claimed FROM tasks AS waiting
   WHERE priority = from_queue AND status = 'pending' AND due_at <= now()
     AND (runtime IS NULL OR runtime = ANY (on_runtimes))
     AND (concurrency_key IS NULL OR NOT EXISTS (
           SELECT FROM tasks AS running
            WHERE running.status = 'active' AND running.team_id = waiting.team_id
              AND running.concurrency_key = waiting.concurrency_key))
   ORDER BY due_at, id
     FOR UPDATE SKIP LOCKED LIMIT 1;
  IF NOT FOUND THEN
    RETURN;
  END IF;
  PERFORM set_config('sfp.team_id', claimed.team_id::text, true);
  UPDATE tasks
     SET status = 'active', reason = NULL, reason_detail = NULL, attempt = attempt + 1, progress = 0, step = '',
         started_at = coalesce(started_at, now())
   WHERE id = claimed.id
  RETURNING * INTO claimed;
  INSERT INTO attempts (task_id, attempt, team_id, queue, dispatcher_id, runtime, lease_expires_at)
  VALUES (claimed.id, claimed.attempt, claimed.team_id, from_queue, by_dispatcher, coalesce(claimed.runtime, on_runtimes[1]),
          now() + make_interval(secs => claimed.lease_seconds));
  PERFORM tell_task(claimed, 'task.started');
  RETURN NEXT claimed;
EXCEPTION WHEN unique_violation THEN
  RETURN;  -- another queue took the concurrency key in the same moment: the task waits on
END $$;

-- End an attempt: result, state, credentials and event in one step. False: the attempt is not the current one.
-- `retry_after` (seconds) puts the task back in line instead of ending it.
CREATE FUNCTION finish(of_task uuid, of_attempt int, as_status text, with_error jsonb, with_result jsonb,
                       with_exit int, with_signal int, with_usage jsonb, attempt_status text, retry_after double precision)
RETURNS boolean LANGUAGE plpgsql VOLATILE SET search_path = sfp AS $$
DECLARE
  ended tasks;
BEGIN
  IF retry_after IS NULL THEN
    UPDATE tasks
       SET status = as_status, error = with_error, result = with_result, finished_at = now(),
           progress = CASE WHEN as_status = 'completed' THEN 100 ELSE progress END
     WHERE id = of_task AND attempt = of_attempt AND status = 'active'
    RETURNING * INTO ended;
  ELSE
    UPDATE tasks
       SET status = 'pending', reason = 'retry', error = with_error, result = NULL,
           reason_detail = 'attempt ' || of_attempt || ' of ' || max_attempts || ' ended: ' || (with_error ->> 'message'),
           due_at = now() + make_interval(secs => retry_after)
     WHERE id = of_task AND attempt = of_attempt AND status = 'active'
    RETURNING * INTO ended;
  END IF;
  IF ended.id IS NULL THEN
    RETURN false;
  END IF;
  PERFORM set_config('sfp.team_id', ended.team_id::text, true);
  UPDATE attempts
     SET status = attempt_status, ended_at = now(), exit_code = with_exit, signal = with_signal, error = with_error,
         usage = with_usage
   WHERE task_id = of_task AND attempt = of_attempt;
  UPDATE leases SET ended_at = now() WHERE task_id = of_task AND attempt = of_attempt AND ended_at IS NULL;
  DELETE FROM worker_tickets WHERE task_id = of_task AND attempt = of_attempt;
  PERFORM pg_notify('sfp_tasks', ended.priority);
  PERFORM tell_task(ended, CASE WHEN retry_after IS NULL THEN 'task.' || as_status ELSE 'task.retrying' END);
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

-- Log lines of the current attempt, in order. NULL: the attempt is not the current one.
CREATE FUNCTION log_lines(of_task uuid, of_attempt int, lines jsonb[]) RETURNS bigint
LANGUAGE plpgsql VOLATILE SET search_path = sfp AS $$
DECLARE
  of_team uuid;
BEGIN
  SELECT team_id INTO of_team FROM tasks WHERE id = of_task AND attempt = of_attempt AND status = 'active' FOR KEY SHARE;
  IF NOT FOUND THEN
    RETURN NULL;
  END IF;
  PERFORM set_config('sfp.team_id', of_team::text, true);
  RETURN record_batch(of_team, 'task:' || of_task, 'task.log', lines);
END $$;

RESET ROLE;
RESET search_path;
