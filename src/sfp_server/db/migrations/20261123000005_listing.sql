-- Lists of tasks that stay fast however many are stored.

SET lock_timeout = '5s';
SET ROLE sfp_migrator;
SET search_path = sfp;

CREATE FUNCTION fits(task tasks, of_status text, of_type text, of_priority text, after timestamptz, before timestamptz)
RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
  SELECT (of_status IS NULL OR task.status = of_status)
     AND (of_type IS NULL OR task.type = of_type)
     AND (of_priority IS NULL OR task.priority = of_priority)
     AND (after IS NULL OR task.created_at > after)
     AND (before IS NULL OR task.created_at < before)
$$;

-- Tasks of the actor's team, newest first: those that fit each filter that is not NULL, with ids below `below`.
-- For the definer's eyes, with the team in each condition: behind a row-level policy PostgreSQL uses no index for labels
-- (`@>` might leak what it sees). Planned for each call, because what is fast depends on which filters are there.
-- An id begins with the time of its making, which is that of `created_at` or, by a long transaction, later.
CREATE FUNCTION list_tasks(of_status text, of_type text, of_priority text, with_labels jsonb, after timestamptz,
                           before timestamptz, below uuid, at_most int)
RETURNS SETOF tasks LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = sfp SET plan_cache_mode = force_custom_plan AS $$
DECLARE
  team uuid := current_team();
  low  uuid := coalesce(uuid7_from(after), '00000000-0000-0000-0000-000000000000');
  high uuid := coalesce(least(below, uuid7_from(before + interval '10 minutes')), 'ffffffff-ffff-ffff-ffff-ffffffffffff');
  ids  uuid[];
BEGIN
  IF with_labels IS NULL THEN
    RETURN QUERY
    SELECT * FROM tasks
     WHERE team_id = team AND id >= low AND id < high
       AND (of_status IS NULL OR status = of_status)
       AND (of_type IS NULL OR type = of_type)
       AND (of_priority IS NULL OR priority = of_priority)
       AND (after IS NULL OR created_at > after)
       AND (before IS NULL OR created_at < before)
     ORDER BY id DESC
     LIMIT at_most;
    RETURN;
  END IF;
  -- Labels that many tasks have are found among the newest; those that few have, by the index.
  ids := ARRAY(
    SELECT newest.id
      FROM (SELECT * FROM tasks WHERE team_id = team AND id >= low AND id < high ORDER BY id DESC LIMIT 1000) AS newest
     WHERE labels @> with_labels AND fits(newest::tasks, of_status, of_type, of_priority, after, before)
     ORDER BY newest.id DESC
     LIMIT at_most);
  IF cardinality(ids) < at_most THEN
    WITH labelled AS MATERIALIZED (
      SELECT tasks.id FROM tasks
       WHERE team_id = team AND id >= low AND id < high AND labels @> with_labels
         AND fits(tasks, of_status, of_type, of_priority, after, before)
    )
    SELECT array_agg(page.id) INTO ids FROM (SELECT labelled.id FROM labelled ORDER BY id DESC LIMIT at_most) AS page;
  END IF;
  RETURN QUERY SELECT * FROM tasks WHERE id = ANY (ids) AND team_id = team ORDER BY id DESC;
END $$;
REVOKE ALL ON FUNCTION list_tasks(text, text, text, jsonb, timestamptz, timestamptz, uuid, int) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION list_tasks(text, text, text, jsonb, timestamptz, timestamptz, uuid, int) TO sfp_api;

RESET ROLE;
RESET search_path;
