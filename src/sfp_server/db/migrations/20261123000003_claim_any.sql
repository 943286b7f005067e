-- A dispatcher looks into all queues in one statement, and an empty queue costs it no lock and no write.

SET lock_timeout = '5s';
SET ROLE sfp_migrator;
SET search_path = sfp;

-- Give the next waiting task of a queue to a dispatcher, if a slot is free. No row: nothing to run now.
-- Capacity is counted from active attempts under the queue's row lock: there is no counter that could leak. (NO KEY: a
-- submission holds a key share of that row through its foreign key, and must not wait for us, nor we for it.)
CREATE OR REPLACE FUNCTION claim(from_queue text, by_dispatcher uuid, on_runtimes text[]) RETURNS SETOF tasks
LANGUAGE plpgsql VOLATILE SET search_path = sfp AS $$
DECLARE
  capacity int;
  busy     int;
  claimed  tasks;
BEGIN
  PERFORM FROM tasks WHERE priority = from_queue AND status = 'pending' AND due_at <= now() LIMIT 1;
  IF NOT FOUND THEN
    RETURN;  -- before the lock: it would cost each of an idle dispatcher's looks a write to the disk
  END IF;
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

-- The next task of the most urgent queue that has one and a free slot for it. No row: nothing to run now.
-- Queues are looked at, and so locked, in one order everywhere: two dispatchers cannot deadlock.
CREATE FUNCTION claim_any(by_dispatcher uuid, on_runtimes text[]) RETURNS SETOF tasks
LANGUAGE plpgsql VOLATILE SET search_path = sfp AS $$
DECLARE
  from_queue text;
BEGIN
  FOREACH from_queue IN ARRAY ARRAY['critical', 'normal', 'batch'] LOOP
    RETURN QUERY SELECT * FROM claim(from_queue, by_dispatcher, on_runtimes);
    IF FOUND THEN
      RETURN;
    END IF;
  END LOOP;
END $$;

RESET ROLE;
RESET search_path;
