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

-- Tell of many tasks of one team at once, as `tell_task` does one by one: on `event_name`, or by what became of each.
-- (Numbers are given in the order of the ids; the channels are locked in the order of their names.)
CREATE FUNCTION tell_tasks(of_team uuid, ids uuid[], event_name text DEFAULT NULL) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  channels_told int;
BEGIN
  PERFORM set_config('sfp.team_id', of_team::text, true);
  WITH told AS MATERIALIZED (
    SELECT id, priority, task_facts(tasks) AS facts,
           coalesce(event_name, CASE status WHEN 'pending' THEN 'task.retrying' ELSE 'task.' || status END) AS event
      FROM tasks
     WHERE id = ANY (ids)
  ), lines AS MATERIALIZED (
    SELECT channel, event, facts, row_number() OVER (PARTITION BY channel ORDER BY id) AS number,
           count(*) OVER (PARTITION BY channel) AS many
      FROM told
     CROSS JOIN LATERAL unnest(ARRAY['task:' || id, 'tasks', 'queue:' || priority]) AS channel
  ), numbered AS (
    INSERT INTO channels AS c (team_id, name, last_seq)
    SELECT of_team, channel, count(*) FROM lines GROUP BY channel ORDER BY channel
    ON CONFLICT (team_id, name) DO UPDATE SET last_seq = c.last_seq + excluded.last_seq
    RETURNING name, last_seq
  ), added AS (
    INSERT INTO events (team_id, channel, seq, event, data)
    SELECT of_team, channel, last_seq - many + number, event, facts FROM numbered JOIN lines ON channel = name
  )
  SELECT count(pg_notify('sfp_events', of_team || ' ' || last_seq || haste_of(event_name) || ' ' || name))
    INTO channels_told
    FROM numbered;
END $$;

CREATE FUNCTION tell_each_team(ids uuid[], event_name text DEFAULT NULL) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  of_team  uuid;
  of_these uuid[];
BEGIN
  FOR of_team, of_these IN
    SELECT team_id, array_agg(id) FROM tasks WHERE id = ANY (ids) GROUP BY team_id ORDER BY team_id
  LOOP
    PERFORM tell_tasks(of_team, of_these, event_name);
  END LOOP;
END $$;

-- Slots (none while a queue is paused) and running attempts. Capacity is counted, never kept: nothing can leak.
CREATE TYPE slots_in_use AS (critical_slots int, critical_busy int, normal_slots int, normal_busy int,
                             batch_slots int, batch_busy int);

-- How the slots are used, as of now; the caller holds the claims' lock.
CREATE FUNCTION count_slots() RETURNS slots_in_use LANGUAGE sql STABLE AS $$
  WITH counted AS (
    SELECT name, CASE WHEN paused THEN 0 ELSE slots END AS slots,
           (SELECT count(*)::int FROM attempts WHERE queue = name AND status = 'active') AS busy
      FROM queues
  )
  SELECT critical.slots, critical.busy, normal.slots, normal.busy, batch.slots, batch.busy
    FROM counted AS critical, counted AS normal, counted AS batch
   WHERE critical.name = 'critical' AND normal.name = 'normal' AND batch.name = 'batch'
$$;

-- Whether normal or batch work waits since long for a slot that is its queue's own: critical then borrows none, so that
-- a stream of it starves nobody.
CREATE FUNCTION is_owed(used slots_in_use) RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN
  RETURN EXISTS (
    SELECT FROM tasks
     WHERE (priority = 'normal' AND used.normal_busy < used.normal_slots
            OR priority = 'batch' AND used.batch_busy < used.batch_slots)
       AND status = 'pending' AND reason = 'queued' AND schedule_type <> 'recurring'
       AND due_at < now() - interval '30 seconds');
END $$;

-- How the slots are shared. `shared` is what normal and batch have together; critical's own slots are never lent, so
-- it always has a free lane or runs something critical.
CREATE FUNCTION has_room(for_queue text, used slots_in_use) RETURNS boolean LANGUAGE plpgsql STABLE AS $$
DECLARE
  shared int := used.normal_slots + used.batch_slots;
  taken  int := used.normal_busy + used.batch_busy + greatest(0, used.critical_busy - used.critical_slots);
BEGIN
  CASE for_queue
    WHEN 'critical' THEN
      RETURN used.critical_slots > 0
        AND (used.critical_busy < used.critical_slots OR taken < shared AND NOT is_owed(used));
    WHEN 'normal' THEN
      RETURN used.normal_busy < used.normal_slots AND taken < shared;
    WHEN 'batch' THEN
      RETURN used.batch_slots > 0 AND taken < shared
        AND (used.batch_busy < used.batch_slots OR NOT EXISTS (  -- beyond its own: only what nobody else waits for
              SELECT FROM tasks
               WHERE priority IN ('critical', 'normal') AND status = 'pending' AND reason = 'queued'
                 AND schedule_type <> 'recurring' AND due_at <= now()));
  END CASE;
END $$;

-- For how many more tasks, up to `at_most`.
CREATE FUNCTION room_for(for_queue text, used slots_in_use, at_most int) RETURNS int LANGUAGE plpgsql STABLE AS $$
DECLARE
  room int := 0;
BEGIN
  WHILE room < at_most AND has_room(for_queue, used) LOOP
    room := room + 1;
    used := with_busy(used, for_queue, 1);
  END LOOP;
  RETURN room;
END $$;

CREATE FUNCTION with_busy(used slots_in_use, in_queue text, more int) RETURNS slots_in_use LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
  CASE in_queue
    WHEN 'critical' THEN used.critical_busy := used.critical_busy + more;
    WHEN 'normal' THEN used.normal_busy := used.normal_busy + more;
    WHEN 'batch' THEN used.batch_busy := used.batch_busy + more;
  END CASE;
  RETURN used;
END $$;

-- May a full queue ask for room? It must be open, batch must run something; critical must not want what somebody else
-- is owed, and normal must lack what is its own.
CREATE FUNCTION may_ask_for_room(for_queue text, used slots_in_use) RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN
  CASE for_queue
    WHEN 'critical' THEN RETURN used.critical_slots > 0 AND used.batch_busy > 0 AND NOT is_owed(used);
    WHEN 'normal' THEN RETURN used.normal_busy < used.normal_slots AND used.batch_busy > used.batch_slots;
    ELSE RETURN false;
  END CASE;
END $$;

-- Ask the newest batch attempt that runs on lent capacity to make room. The asked one is put back in line by its
-- dispatcher; a task is asked at most `at_most` times in its life, so that long work ends too. An attempt that is
-- locked is ending: it makes room by itself, and we must not wait for it (it may wait for channels that we hold).
CREATE FUNCTION ask_for_room(at_most int) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  asked uuid;
BEGIN
  IF EXISTS (SELECT FROM attempts WHERE queue = 'batch' AND status = 'active' AND preempt_asked_at IS NOT NULL) THEN
    RETURN;  -- room is being made already
  END IF;
  UPDATE attempts SET preempt_asked_at = now()
   WHERE (task_id, attempt) = (
         SELECT attempts.task_id, attempts.attempt
           FROM attempts
           JOIN tasks ON tasks.id = attempts.task_id
          WHERE queue = 'batch' AND attempts.status = 'active' AND tasks.preemptions < at_most
          ORDER BY attempts.started_at DESC
          LIMIT 1
            FOR NO KEY UPDATE OF attempts SKIP LOCKED)
  RETURNING task_id INTO asked;
  IF asked IS NOT NULL THEN
    PERFORM pg_notify('sfp_tasks', 'preempt ' || asked);
  END IF;
END $$;

-- Is there a task in this full queue that would run here if it had room?
-- (`on_runtimes`, here and below: what the dispatcher offers. Its default runtime, its others, and `+name` of its toolchains.)
CREATE FUNCTION is_one_able(in_queue text, on_runtimes text[], team_limit int) RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN
  RETURN EXISTS (
    SELECT FROM tasks
     WHERE priority = in_queue AND status = 'pending' AND schedule_type <> 'recurring' AND due_at <= now()
       AND (reason = 'concurrency')::int = 0
       AND (runtime IS NULL OR runtime = ANY (on_runtimes))
       AND (toolchain IS NULL OR '+' || toolchain = ANY (on_runtimes))
       AND (concurrency_key IS NULL OR NOT EXISTS (
             SELECT FROM held_keys WHERE held_keys.team_id = tasks.team_id AND key = concurrency_key))
       AND (team_limit = 0
            OR (SELECT count(*) FROM attempts WHERE status = 'active' AND attempts.team_id = tasks.team_id) < team_limit));
END $$;

-- Take up to `room` waiting tasks of a queue, whose turn it is. Teams take turns: first the oldest due task of each, the
-- team that was served longest ago in front, then the second ones. A task that is being cancelled is passed over.
CREATE FUNCTION take_from(from_queue text, room int, by_dispatcher uuid, on_runtimes text[], team_limit int)
RETURNS uuid[] LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  began timestamptz := clock_timestamp();
  ids   uuid[];
BEGIN
  WITH RECURSIVE waiting (team_id) AS (  -- each team once, without reading all its tasks
    (SELECT team_id FROM tasks
      WHERE priority = from_queue AND status = 'pending' AND schedule_type <> 'recurring'
        AND (reason = 'concurrency')::int = 0
      ORDER BY team_id LIMIT 1)
    UNION ALL
    SELECT (SELECT tasks.team_id FROM tasks
             WHERE priority = from_queue AND status = 'pending' AND schedule_type <> 'recurring'
               AND (reason = 'concurrency')::int = 0 AND tasks.team_id > waiting.team_id
             ORDER BY tasks.team_id LIMIT 1)
      FROM waiting
     WHERE waiting.team_id IS NOT NULL
  ), line AS (
    SELECT head.id, waiting.team_id, turns.served_at, head.due_at,
           row_number() OVER (PARTITION BY waiting.team_id ORDER BY head.due_at, head.id) AS round
      FROM waiting
      LEFT JOIN turns ON turns.queue = from_queue AND turns.team_id = waiting.team_id
     CROSS JOIN LATERAL (
           SELECT id, due_at, concurrency_key,
                  row_number() OVER (PARTITION BY concurrency_key ORDER BY due_at, id) AS of_key
             FROM (SELECT id, due_at, concurrency_key
                     FROM tasks
                    WHERE priority = from_queue AND status = 'pending' AND schedule_type <> 'recurring'
                      AND (reason = 'concurrency')::int = 0 AND team_id = waiting.team_id AND due_at <= now()
                      AND (runtime IS NULL OR runtime = ANY (on_runtimes))
                      AND (toolchain IS NULL OR '+' || toolchain = ANY (on_runtimes))
                      AND (concurrency_key IS NULL OR NOT EXISTS (
                            SELECT FROM held_keys WHERE held_keys.team_id = tasks.team_id AND key = concurrency_key))
                    ORDER BY due_at, id
                    LIMIT room) AS first_ones) AS head
     WHERE head.concurrency_key IS NULL OR head.of_key = 1
  ), picked AS (
    SELECT id, row_number() OVER (ORDER BY round, served_at NULLS FIRST, due_at, id) AS place
      FROM line
     WHERE team_limit = 0
        OR round + (SELECT count(*) FROM attempts WHERE status = 'active' AND attempts.team_id = line.team_id) <= team_limit
     ORDER BY place
     LIMIT room
  ), free AS (  -- (What has a reason is pending. Asked for by its status, it would be looked for among all that are.)
    SELECT tasks.id, picked.place
      FROM picked
      JOIN tasks ON tasks.id = picked.id
     WHERE tasks.reason IS NOT NULL
       FOR NO KEY UPDATE OF tasks SKIP LOCKED
  ), taken AS (
    UPDATE tasks
       SET status = 'active', reason = NULL, reason_detail = NULL, attempt = attempt + 1, progress = 0, step = '',
           started_at = coalesce(started_at, began)
      FROM free
     WHERE tasks.id = free.id
    RETURNING tasks.id, tasks.team_id, tasks.attempt, tasks.runtime, tasks.lease_seconds, tasks.concurrency_key, free.place
  ), held AS (
    INSERT INTO held_keys (team_id, key, task_id)
    SELECT team_id, concurrency_key, id FROM taken WHERE concurrency_key IS NOT NULL
  ), served AS (
    INSERT INTO turns (queue, team_id, served_at)
    SELECT from_queue, team_id, began + max(place) * interval '1 microsecond' FROM taken GROUP BY team_id
    ON CONFLICT (queue, team_id) DO UPDATE SET served_at = excluded.served_at
  ), begun AS (
    INSERT INTO attempts (task_id, attempt, team_id, queue, dispatcher_id, runtime, started_at, lease_expires_at, first_seq)
    SELECT id, attempt, team_id, from_queue, by_dispatcher, coalesce(runtime, on_runtimes[1]),
           began + place * interval '1 microsecond',  -- in the order of the line, which making room goes by
           now() + make_interval(secs => lease_seconds),
           (SELECT last_seq FROM channels WHERE channels.team_id = taken.team_id AND name = 'task:' || id)
      FROM taken
  )
  SELECT coalesce(array_agg(id ORDER BY place), '{}') INTO ids FROM taken;
  RETURN ids;
END $$;

-- The queues that have something due, the most urgent first. Asked before the claims' lock.
-- (Three questions: as one, over the names of the queues, all that waits would be read for a queue that is empty.)
CREATE FUNCTION queues_with_work() RETURNS text[] LANGUAGE plpgsql STABLE AS $$
DECLARE
  queues text[] := '{}';
BEGIN
  IF EXISTS (SELECT FROM tasks
              WHERE priority = 'critical' AND status = 'pending' AND schedule_type <> 'recurring' AND due_at <= now()
                AND (reason = 'concurrency')::int = 0) THEN
    queues := queues || 'critical'::text;
  END IF;
  IF EXISTS (SELECT FROM tasks
              WHERE priority = 'normal' AND status = 'pending' AND schedule_type <> 'recurring' AND due_at <= now()
                AND (reason = 'concurrency')::int = 0) THEN
    queues := queues || 'normal'::text;
  END IF;
  IF EXISTS (SELECT FROM tasks
              WHERE priority = 'batch' AND status = 'pending' AND schedule_type <> 'recurring' AND due_at <= now()
                AND (reason = 'concurrency')::int = 0) THEN
    queues := queues || 'batch'::text;
  END IF;
  RETURN nullif(queues, '{}');
END $$;

-- Give waiting tasks to a dispatcher, the most urgent queue first, as long as there is room, `up_to` of them. The caller
-- holds the claims' lock.
CREATE FUNCTION take_tasks(by_dispatcher uuid, on_runtimes text[], team_limit int, preemptions_at_most int, up_to int,
                           from_queues text[])
RETURNS SETOF tasks LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  used       slots_in_use := count_slots();
  from_queue text;
  room       int;
  ids        uuid[];
  taken      uuid[] := '{}';
BEGIN
  FOREACH from_queue IN ARRAY from_queues LOOP
    room := room_for(from_queue, used, up_to - cardinality(taken));
    IF room > 0 THEN
      ids := take_from(from_queue, room, by_dispatcher, on_runtimes, team_limit);
      taken := taken || ids;
      used := with_busy(used, from_queue, cardinality(ids));
    ELSIF may_ask_for_room(from_queue, used) AND is_one_able(from_queue, on_runtimes, team_limit) THEN
      PERFORM ask_for_room(preemptions_at_most);
    END IF;
  END LOOP;
  IF taken <> '{}' THEN
    PERFORM tell_each_team(taken, 'task.started');
    RETURN QUERY SELECT tasks.* FROM unnest(taken) WITH ORDINALITY AS mine (id, place) JOIN tasks USING (id) ORDER BY place;
  END IF;
END $$;

-- One claim at a time, so that each counts what the others took. (An advisory lock: the queues' rows, locked, would cost
-- each look in vain a write to the disk.) Whoever claims takes this lock before it locks channels. Answers the queues that
-- have work; NULL: none has, and nothing was locked.
CREATE FUNCTION lock_claims() RETURNS text[] LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  queues text[] := queues_with_work();
BEGIN
  IF queues IS NOT NULL THEN
    PERFORM pg_advisory_xact_lock(hashtext('sfp.claim'));
  END IF;
  RETURN queues;
END $$;

-- Take what waits, as `take_tasks` says. No row: nothing to run now.
-- (Generic plans, here and below: PostgreSQL would plan anew for each task, which takes longer than to run it. And by
-- index, without joining or sorting more than is taken: a plan made while a table was empty would read all of it for as
-- long as the connection lives. `tests/integration/test_claim_cost.py` counts.)
CREATE FUNCTION claim(by_dispatcher uuid, on_runtimes text[], team_limit int, preemptions_at_most int, up_to int)
RETURNS SETOF tasks LANGUAGE plpgsql VOLATILE
SET search_path = sfp SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_sort = off AS $$
DECLARE
  from_queues text[] := lock_claims();
BEGIN
  IF from_queues IS NOT NULL THEN
    RETURN QUERY SELECT * FROM take_tasks(by_dispatcher, on_runtimes, team_limit, preemptions_at_most, up_to, from_queues);
  END IF;
END $$;

-- How an attempt ended. `retry_after` (seconds) puts the task back in line instead of ending it; so does
-- `attempt_status` preempted, which does not count as a try.
CREATE TYPE ending AS (task_id uuid, attempt int, status text, error jsonb, result jsonb, exit_code int, signal int,
                       usage jsonb, attempt_status text, retry_after double precision);

-- What becomes of a task: a final state, or `room` (it makes room for others), or `again` (it is tried again). One whose
-- cancelling was asked for before ends as cancelled, whatever its worker says.
CREATE FUNCTION what_becomes(cancel_requested_at timestamptz, status text, attempt_status text, retry_after double precision)
RETURNS text LANGUAGE sql IMMUTABLE AS $$
  SELECT CASE WHEN cancel_requested_at IS NOT NULL THEN 'cancelled'
              WHEN attempt_status = 'preempted' THEN 'room'
              WHEN retry_after IS NOT NULL THEN 'again'
              ELSE status END
$$;

-- What the ended attempts of these tasks had drawn, or could still have drawn, is over.
CREATE FUNCTION end_leases(of_tasks uuid[]) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  of_task uuid;
  of_team uuid;
BEGIN
  FOR of_task, of_team IN SELECT id, team_id FROM tasks WHERE id = ANY (of_tasks) ORDER BY id LOOP
    PERFORM set_config('sfp.team_id', of_team::text, true);
    -- The ticket first: a draw that is under way holds its row, and we wait until its leases are there to be ended.
    DELETE FROM worker_tickets WHERE task_id = of_task;
    UPDATE leases SET ended_at = now() WHERE task_id = of_task AND ended_at IS NULL;
  END LOOP;
END $$;

-- These tasks have ended: of each key that is free now, the first that waits for it is in line at once; the others go on
-- waiting. (Should it be locked just now, or unable to run, `explain` finds another one.)
CREATE FUNCTION free_keys(of_tasks uuid[]) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  of_team  uuid;
  of_key   text;
  of_queue text;
BEGIN
  FOR of_team, of_key IN
    SELECT DISTINCT team_id, concurrency_key FROM tasks WHERE id = ANY (of_tasks) AND concurrency_key IS NOT NULL
  LOOP
    CONTINUE WHEN EXISTS (SELECT FROM held_keys WHERE team_id = of_team AND key = of_key);
    FOREACH of_queue IN ARRAY ARRAY['critical', 'normal', 'batch'] LOOP
      CONTINUE WHEN EXISTS (SELECT FROM queues WHERE name = of_queue AND (paused OR slots = 0));
      UPDATE tasks SET reason = 'queued', reason_detail = NULL
       WHERE id = (SELECT id FROM tasks
                    WHERE team_id = of_team AND concurrency_key = of_key AND priority = of_queue AND status = 'pending'
                      AND schedule_type <> 'recurring' AND due_at <= now()
                    ORDER BY due_at, id
                    LIMIT 1
                      FOR NO KEY UPDATE SKIP LOCKED);
      EXIT WHEN FOUND;
    END LOOP;
  END LOOP;
END $$;

-- End attempts, given as an array of `ending` in JSON: results, states, credentials and events in one step. Answers the
-- tasks whose attempt has ended with this call; one that is missing was not at that attempt any more. Without
-- `tell_of_room` nobody is told that there is room: nothing waits for it.
CREATE FUNCTION end_attempts(endings jsonb, tell_of_room boolean) RETURNS SETOF uuid LANGUAGE plpgsql VOLATILE AS $$
DECLARE
  ids         uuid[];
  with_leases uuid[];
  with_keys   uuid[];
  queues_left text[];
  of_queue    text;
BEGIN
  WITH how AS (
    SELECT * FROM jsonb_populate_recordset(NULL::ending, endings)
  ), ended AS (
    UPDATE tasks
       SET (status, reason, reason_detail, error, result, progress, step, preemptions, due_at, finished_at) = (
             SELECT CASE WHEN becomes IN ('room', 'again') THEN 'pending' ELSE becomes END,
                    CASE becomes WHEN 'room' THEN 'queued' WHEN 'again' THEN 'retry' END,
                    CASE becomes WHEN 'room' THEN 'made room for more urgent work; it runs again'
                                 WHEN 'again' THEN 'attempt ' || how.attempt - tasks.preemptions || ' of ' || tasks.max_attempts
                                                   || ' ended: ' || (how.error ->> 'message') END,
                    CASE WHEN becomes = 'room' THEN tasks.error
                         WHEN becomes = 'cancelled'
                         THEN '{"code": "cancelled", "message": "cancelled while it was running", "retryable": false}'
                         ELSE how.error END,
                    CASE becomes WHEN 'room' THEN tasks.result WHEN 'again' THEN NULL ELSE how.result END,
                    CASE WHEN becomes = 'room' THEN 0 WHEN becomes <> 'again' AND how.status = 'completed' THEN 100
                         ELSE tasks.progress END,
                    CASE becomes WHEN 'room' THEN '' ELSE tasks.step END,
                    tasks.preemptions + (becomes = 'room')::int,
                    CASE becomes WHEN 'again' THEN now() + make_interval(secs => how.retry_after) ELSE tasks.due_at END,
                    CASE WHEN becomes NOT IN ('room', 'again') THEN clock_timestamp() END
               FROM what_becomes(tasks.cancel_requested_at, how.status, how.attempt_status, how.retry_after) AS becomes)
      FROM how
     WHERE tasks.id = how.task_id AND tasks.attempt = how.attempt
       AND tasks.reason IS NULL AND tasks.finished_at IS NULL  -- active; asked for so, it is looked for by its id alone
    RETURNING tasks.id, tasks.team_id, tasks.priority, tasks.concurrency_key, tasks.credentials, how.attempt AS of_attempt,
              CASE WHEN tasks.status = 'cancelled' AND how.attempt_status <> 'lost' THEN 'cancelled'
                   ELSE how.attempt_status END AS attempt_status, how.exit_code, how.signal, how.error AS how_error, how.usage
  ), closed AS (
    UPDATE attempts
       SET status = attempt_status, ended_at = clock_timestamp(), exit_code = ended.exit_code, signal = ended.signal,
           error = how_error, usage = ended.usage,
           last_seq = (SELECT last_seq FROM channels WHERE channels.team_id = ended.team_id AND name = 'task:' || id)
      FROM ended
     WHERE task_id = id AND attempt = of_attempt
  ), freed AS (
    DELETE FROM held_keys USING ended
     WHERE held_keys.team_id = ended.team_id AND key = concurrency_key AND task_id = id
  )
  SELECT array_agg(id), array_agg(id) FILTER (WHERE credentials <> '[]'),
         array_agg(id) FILTER (WHERE concurrency_key IS NOT NULL), array_agg(DISTINCT priority)
    INTO ids, with_leases, with_keys, queues_left
    FROM ended;
  IF ids IS NULL THEN
    RETURN;
  END IF;
  IF with_leases IS NOT NULL THEN
    PERFORM end_leases(with_leases);
  END IF;
  IF with_keys IS NOT NULL THEN
    PERFORM free_keys(with_keys);
  END IF;
  IF tell_of_room THEN
    FOREACH of_queue IN ARRAY queues_left LOOP
      PERFORM pg_notify('sfp_tasks', of_queue);
    END LOOP;
  END IF;
  PERFORM tell_each_team(ids);
  RETURN QUERY SELECT unnest(ids);
END $$;

CREATE FUNCTION finish(endings jsonb) RETURNS SETOF uuid LANGUAGE plpgsql VOLATILE
SET search_path = sfp SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_sort = off AS $$
BEGIN
  RETURN QUERY SELECT * FROM end_attempts(endings, tell_of_room => true);
END $$;

-- `finish` and `claim` in one round trip and one write to the disk: the room that the ended leave is used at once. First
-- the tasks that have ended (`ended`, nothing else is told of them), then those that are the dispatcher's now.
CREATE FUNCTION finish_and_claim(endings jsonb, by_dispatcher uuid, on_runtimes text[], team_limit int,
                                 preemptions_at_most int, up_to int)
RETURNS TABLE (ended uuid, task tasks) LANGUAGE plpgsql VOLATILE
SET search_path = sfp SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET enable_sort = off AS $$
DECLARE
  from_queues text[] := CASE WHEN up_to > 0 THEN lock_claims() END;
BEGIN
  RETURN QUERY SELECT finished, NULL::tasks
                 FROM end_attempts(endings, tell_of_room => from_queues IS NOT NULL OR up_to = 0) AS finished;
  IF from_queues IS NOT NULL THEN
    RETURN QUERY SELECT NULL::uuid, taken FROM take_tasks(by_dispatcher, on_runtimes, team_limit, preemptions_at_most,
                                                          up_to, from_queues) AS taken;
  END IF;
END $$;

-- A ticket for the current attempt's credentials; only its hash is stored. A second one changes nothing.
CREATE FUNCTION add_ticket(with_hash bytea, of_task uuid, of_attempt int) RETURNS void
LANGUAGE sql VOLATILE SET search_path = sfp AS $$
  INSERT INTO worker_tickets (token_hash, team_id, task_id, attempt, expires_at)
  VALUES (with_hash, current_team(), of_task, of_attempt, now() + interval '5 minutes')
  ON CONFLICT DO NOTHING
$$;

-- How a dispatcher that comes later finds the worker.
CREATE FUNCTION save_handle(of_task uuid, of_attempt int, with_handle text, with_runtime text) RETURNS void
LANGUAGE sql VOLATILE SET search_path = sfp AS $$
  UPDATE attempts SET handle = with_handle, runtime = with_runtime
   WHERE task_id = of_task AND attempt = of_attempt AND status = 'active'
$$;

-- Renew a dispatcher's running attempts; those that do not come back are no longer its own.
-- (One that is locked is being ended or asked to make room just now: we need not wait for it, and must not, holding others.)
CREATE FUNCTION renew(by_dispatcher uuid, of_tasks uuid[])
RETURNS TABLE (task_id uuid, attempt int, cancel_requested_at timestamptz, preempt_asked_at timestamptz)
LANGUAGE sql VOLATILE SET search_path = sfp AS $$
  WITH ours AS (
    SELECT attempts.task_id, attempts.attempt, attempts.preempt_asked_at, tasks.cancel_requested_at, tasks.lease_seconds
      FROM attempts
      JOIN tasks ON tasks.id = attempts.task_id
     WHERE attempts.dispatcher_id = by_dispatcher AND attempts.status = 'active' AND attempts.task_id = ANY (of_tasks)
  ), free AS (
    SELECT attempts.task_id, attempts.attempt
      FROM attempts
     WHERE dispatcher_id = by_dispatcher AND status = 'active' AND attempts.task_id = ANY (of_tasks)
       FOR NO KEY UPDATE SKIP LOCKED
  ), renewed AS (
    UPDATE attempts
       SET lease_expires_at = now() + make_interval(secs => ours.lease_seconds)
      FROM ours
      JOIN free USING (task_id, attempt)
     WHERE attempts.task_id = ours.task_id AND attempts.attempt = ours.attempt
  )
  SELECT task_id, attempt, cancel_requested_at, preempt_asked_at FROM ours
$$;

-- Tasks that are claimed for a dispatcher, other than those it knows of: the answer to their claim never came.
CREATE FUNCTION unheard(by_dispatcher uuid, known uuid[]) RETURNS SETOF tasks
LANGUAGE sql VOLATILE SET search_path = sfp AS $$
  SELECT tasks.*
    FROM attempts
    JOIN tasks ON tasks.id = attempts.task_id AND tasks.attempt = attempts.attempt
   WHERE attempts.dispatcher_id = by_dispatcher AND attempts.status = 'active' AND attempts.task_id <> ALL (known)
$$;

-- Attempts of dispatchers of a place that exist no more: their workers died with them.
CREATE FUNCTION abandoned(on_host text, alive uuid[])
RETURNS TABLE (task_id uuid, attempt int, team_id uuid, handle text, runtime text, max_attempts int, retry_config jsonb,
               preemptions int, cancel_requested_at timestamptz)
LANGUAGE sql STABLE SET search_path = sfp AS $$
  SELECT attempts.task_id, attempts.attempt, attempts.team_id, attempts.handle, attempts.runtime, tasks.max_attempts,
         tasks.retry_config, tasks.preemptions, tasks.cancel_requested_at
    FROM attempts
    JOIN tasks ON tasks.id = attempts.task_id
    JOIN dispatchers ON dispatchers.id = attempts.dispatcher_id
   WHERE attempts.status = 'active' AND dispatchers.host = on_host AND dispatchers.id <> ALL (alive)
$$;

-- What a dispatcher is and can do; said again with every renewal.
CREATE FUNCTION announce(dispatcher uuid, on_host text, with_pid int, has_runtimes text[], has_isolation jsonb,
                         has_toolchains jsonb, has_slots int, has_version text) RETURNS void
LANGUAGE sql VOLATILE SET search_path = sfp AS $$
  INSERT INTO dispatchers (id, host, pid, runtimes, isolation, toolchains, slots, version)
  VALUES (dispatcher, on_host, with_pid, has_runtimes, has_isolation, has_toolchains, has_slots, has_version)
  ON CONFLICT (id) DO UPDATE SET seen_at = now(), runtimes = excluded.runtimes, isolation = excluded.isolation,
                                 toolchains = excluded.toolchains, slots = excluded.slots
$$;

-- A dispatcher says goodbye.
CREATE FUNCTION leave(dispatcher uuid) RETURNS void LANGUAGE sql VOLATILE SET search_path = sfp AS $$
  DELETE FROM dispatchers WHERE id = dispatcher
$$;

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
