-- Old tasks and old events are dropped a month at a time: deleting rows one by one would cost as much as making
-- them did. Partitions are made ahead by the migrator's own functions, which the dispatcher may call.

SET lock_timeout = '5s';
SET ROLE sfp_migrator;
SET search_path = sfp;

-- The lowest id that could have been made at this time.
CREATE FUNCTION uuid7_from(at timestamptz) RETURNS uuid LANGUAGE sql IMMUTABLE SET search_path = pg_catalog AS $$
  SELECT encode(substring(int8send((extract(epoch FROM at) * 1000)::bigint) FROM 3) || '\x00000000000000000000'::bytea,
                'hex')::uuid
$$;

-- They wait for locks less long than PostgreSQL waits before it looks for deadlocks: in a clash it is they that give up,
-- never somebody's request, and the dispatcher tries again.

-- The functions below act for nobody's team: they see all rows, and say nothing about them.
CREATE POLICY tasks_maintained ON tasks TO sfp_migrator USING (true) WITH CHECK (true);
CREATE POLICY attempts_maintained ON attempts TO sfp_migrator USING (true) WITH CHECK (true);
CREATE POLICY artifacts_maintained ON artifacts TO sfp_migrator USING (true);
CREATE POLICY leases_maintained ON leases TO sfp_migrator USING (true);
CREATE POLICY channels_maintained ON channels TO sfp_migrator USING (true);
CREATE POLICY events_maintained ON events TO sfp_migrator USING (true);

-- One month of a table, closed to direct access: its rows are reached through the parent's policies only.
CREATE FUNCTION make_partition(of_table text, month date) RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = sfp SET timezone = 'UTC' AS $$
DECLARE
  name  text := of_table || to_char(month, '_YYYY_MM');
  first timestamptz := month;
  next  timestamptz := month + interval '1 month';
  low   text := CASE WHEN of_table = 'events' THEN first::text ELSE uuid7_from(first)::text END;
  high  text := CASE WHEN of_table = 'events' THEN next::text ELSE uuid7_from(next)::text END;
BEGIN
  IF to_regclass('sfp.' || name) IS NOT NULL THEN
    RETURN;
  END IF;
  EXECUTE format('CREATE TABLE %I PARTITION OF %I FOR VALUES FROM (%L) TO (%L)', name, of_table, low, high);
  EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
  EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
END $$;

-- Rows outside of every month (a clock that is far off) are not refused.
CREATE TABLE tasks_other PARTITION OF tasks DEFAULT;
CREATE TABLE attempts_other PARTITION OF attempts DEFAULT;
CREATE TABLE events_other PARTITION OF events DEFAULT;
ALTER TABLE tasks_other ENABLE ROW LEVEL SECURITY;
ALTER TABLE tasks_other FORCE ROW LEVEL SECURITY;
ALTER TABLE attempts_other ENABLE ROW LEVEL SECURITY;
ALTER TABLE attempts_other FORCE ROW LEVEL SECURITY;
ALTER TABLE events_other ENABLE ROW LEVEL SECURITY;
ALTER TABLE events_other FORCE ROW LEVEL SECURITY;

-- Make this month and the next ones. Cheap when they are there. Few, because each look into a table opens all of them. A
-- month that already has rows in `…_other` (the instance slept over its beginning) stays there.
CREATE FUNCTION make_partitions(months_ahead int DEFAULT 2) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = sfp SET timezone = 'UTC' SET lock_timeout = '300ms' AS $$
DECLARE
  month date;
  name  text;
BEGIN
  FOR month IN SELECT date_trunc('month', now())::date + make_interval(months => n) FROM generate_series(0, months_ahead) AS n LOOP
    FOREACH name IN ARRAY ARRAY['tasks', 'attempts', 'events'] LOOP
      BEGIN
        PERFORM make_partition(name, month);
      EXCEPTION WHEN check_violation THEN
        RAISE NOTICE '% of % stays in %_other', month, name, name;
      END;
    END LOOP;
  END LOOP;
END $$;
SELECT make_partitions();

-- Months of a table that ended before a time, oldest first.
CREATE FUNCTION old_months(of_table text, before timestamptz) RETURNS SETOF date
LANGUAGE sql STABLE SET search_path = sfp SET timezone = 'UTC' AS $$
  SELECT month
    FROM pg_inherits
    JOIN pg_class ON pg_class.oid = inhrelid
   CROSS JOIN LATERAL to_date(substring(relname FROM '_(\d{4}_\d{2})$'), 'YYYY_MM') AS month
   WHERE inhparent = ('sfp.' || of_table)::regclass
     AND relname ~ '_\d{4}_\d{2}$'
     AND month + interval '1 month' <= before
   ORDER BY month
$$;

-- Drop the events of months that ended before a time. Answers the months. (Occurrences only keep dispatchers apart
-- while they make them: their series has moved on since.)
CREATE FUNCTION drop_old_events(before timestamptz) RETURNS SETOF date
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = sfp SET timezone = 'UTC' SET lock_timeout = '300ms' AS $$
DECLARE
  month date;
BEGIN
  DELETE FROM occurrences WHERE at < now() - interval '1 day';
  FOR month IN SELECT old_months('events', before) LOOP
    EXECUTE format('DROP TABLE %I', 'events' || to_char(month, '_YYYY_MM'));
    RETURN NEXT month;
  END LOOP;
END $$;

-- Drop the tasks of months that ended before a time and have none that is still alive, and uploads from before that no
-- living task names. Answers the ids of artifacts whose bytes are to be removed.
CREATE FUNCTION drop_old_tasks(before timestamptz) RETURNS SETOF uuid
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = sfp SET timezone = 'UTC' SET lock_timeout = '300ms' AS $$
DECLARE
  month date;
  low   uuid;
  high  uuid;
BEGIN
  FOR month IN SELECT old_months('tasks', before) LOOP
    low := uuid7_from(month);
    high := uuid7_from(month + interval '1 month');
    IF EXISTS (SELECT FROM tasks WHERE id >= low AND id < high AND status IN ('pending', 'active')) THEN
      CONTINUE;
    END IF;
    RETURN QUERY DELETE FROM artifacts WHERE task_id >= low AND task_id < high RETURNING artifacts.id;
    DELETE FROM leases WHERE task_id >= low AND task_id < high;
    DELETE FROM worker_tickets WHERE task_id >= low AND task_id < high;
    DELETE FROM channels USING tasks
     WHERE tasks.id >= low AND tasks.id < high AND channels.team_id = tasks.team_id AND channels.name = 'task:' || tasks.id;
    DELETE FROM attempts WHERE task_id >= low AND task_id < high;
    EXECUTE format('DROP TABLE IF EXISTS %I', 'attempts' || to_char(month, '_YYYY_MM'));
    DELETE FROM schedules USING tasks WHERE tasks.id = schedules.task_id AND tasks.id >= low AND tasks.id < high;
    EXECUTE format('ALTER TABLE tasks DETACH PARTITION %I', 'tasks' || to_char(month, '_YYYY_MM'));
    EXECUTE format('DROP TABLE %I', 'tasks' || to_char(month, '_YYYY_MM'));
  END LOOP;
  RETURN QUERY DELETE FROM artifacts
    WHERE task_id IS NULL AND created_at < before
      AND NOT EXISTS (SELECT FROM tasks
                       WHERE status IN ('pending', 'active') AND tasks.team_id = artifacts.team_id
                         AND data::text LIKE '%' || artifacts.id || '%')
    RETURNING artifacts.id;
END $$;
CREATE POLICY schedules_maintained ON schedules TO sfp_migrator USING (true);
CREATE POLICY occurrences_maintained ON occurrences TO sfp_migrator USING (true);
CREATE POLICY held_keys_maintained ON held_keys TO sfp_migrator USING (true);
CREATE POLICY worker_tickets_maintained ON worker_tickets TO sfp_migrator USING (true);

REVOKE ALL ON FUNCTION make_partitions(int), drop_old_events(timestamptz), drop_old_tasks(timestamptz) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION make_partitions(int), drop_old_events(timestamptz), drop_old_tasks(timestamptz) TO sfp_dispatcher;

-- Where a waiting task stands among all teams, and how long tasks of its queue took lately. Numbers only: the caller
-- learns nothing about whose tasks they are. No row: unknown, not waiting, or of another team than the caller's.
-- (One step after the other, by index: as one statement it read every attempt of the queue that was ever made.)
CREATE FUNCTION place_in_line(of_task uuid, OUT at timestamptz, OUT queue_slots int, OUT queue_active int,
                              OUT queue_pending int, OUT ahead int, OUT key_ahead int, OUT sample int,
                              OUT mean_seconds double precision, OUT spread_seconds double precision)
RETURNS SETOF record LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = sfp SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
  me   tasks;
  mine int;
BEGIN
  SELECT * INTO me FROM tasks WHERE id = of_task AND status = 'pending' AND team_id = current_team();
  IF NOT FOUND THEN
    RETURN;
  END IF;
  at := now();
  SELECT slots, (SELECT count(*) FROM attempts WHERE queue = me.priority AND status = 'active')
    INTO queue_slots, queue_active
    FROM queues
   WHERE name = me.priority;
  SELECT count(*) INTO mine
    FROM tasks
   WHERE priority = me.priority AND status = 'pending' AND schedule_type <> 'recurring' AND team_id = me.team_id
     AND due_at <= now() AND (due_at, id) < (me.due_at, me.id);
  -- Teams take turns: of each other team, no more tasks come first than of one's own.
  SELECT coalesce(sum(waiting), 0),
         coalesce(sum(CASE WHEN team_id = me.team_id THEN mine ELSE least(waiting, mine + 1) END), 0)
    INTO queue_pending, ahead
    FROM (SELECT team_id, count(*) AS waiting
            FROM tasks
           WHERE priority = me.priority AND status = 'pending' AND schedule_type <> 'recurring' AND due_at <= now()
           GROUP BY team_id) AS line;
  key_ahead := 0;
  IF me.concurrency_key IS NOT NULL THEN  -- the one that holds it, and those before
    SELECT count(*) INTO key_ahead
      FROM tasks
     WHERE team_id = me.team_id AND concurrency_key = me.concurrency_key AND schedule_type <> 'recurring'
       AND status IN ('active', 'pending')
       AND (status = 'active' OR due_at <= now() AND (due_at, id) < (me.due_at, me.id));
  END IF;
  SELECT count(*), avg(seconds), coalesce(stddev_samp(seconds), 0)
    INTO sample, mean_seconds, spread_seconds
    FROM (SELECT extract(epoch FROM ended_at - started_at) AS seconds
            FROM attempts
           WHERE queue = me.priority AND status IN ('completed', 'failed') AND ended_at > now() - interval '7 days'
           ORDER BY ended_at DESC
           LIMIT 200) AS history;
  RETURN NEXT;
END $$;
REVOKE ALL ON FUNCTION place_in_line(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION place_in_line(uuid) TO sfp_api;

RESET ROLE;
RESET search_path;
