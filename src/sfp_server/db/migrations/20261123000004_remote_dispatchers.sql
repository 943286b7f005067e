-- Dispatchers on other machines. We trust such a machine with the tasks that it runs, and with nothing else: its login
-- role sees no table. It may call the functions of the schema `sfp_remote`, which have the names of the steps that a
-- dispatcher takes, and do them for attempts that it holds. Who "it" is says `session_user`, which it cannot change.

SET lock_timeout = '5s';

DO $$
BEGIN
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'sfp_remote_dispatcher') THEN
    CREATE ROLE sfp_remote_dispatcher NOLOGIN NOINHERIT;
  END IF;
  -- Whose rights the functions have: a dispatcher's, and to know who is enrolled.
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'sfp_remote_steps') THEN
    CREATE ROLE sfp_remote_steps NOLOGIN INHERIT IN ROLE sfp_dispatcher;
  END IF;
END $$;

GRANT sfp_remote_steps TO CURRENT_USER;
SET ROLE sfp_migrator;
GRANT USAGE ON SCHEMA sfp TO sfp_remote_steps;
GRANT SELECT ON sfp.enrolments TO sfp_remote_steps;
GRANT SELECT (id, name, role, slots, token_hash, created_at) ON sfp.enrolments TO sfp_courier;
GRANT SELECT (id, enrolment) ON sfp.dispatchers TO sfp_courier;
GRANT SELECT (task_id, attempt, team_id, status, dispatcher_id) ON sfp.attempts TO sfp_courier;
GRANT SELECT (id, team_id, attempt, status, data, created_by) ON sfp.tasks TO sfp_courier;
GRANT SELECT, INSERT ON sfp.artifacts TO sfp_courier;
CREATE POLICY attempts_carried ON sfp.attempts FOR SELECT TO sfp_courier USING (true);
CREATE POLICY tasks_carried ON sfp.tasks FOR SELECT TO sfp_courier USING (true);
CREATE POLICY artifacts_carried ON sfp.artifacts TO sfp_courier USING (true) WITH CHECK (true);

-- Enrol a machine whose login role has been made.
-- `with_tag`: of its audit entry.
CREATE FUNCTION sfp.enrol(
  with_name text, with_role text, with_hash bytea, with_key bytea, with_slots int, with_tag bytea DEFAULT NULL
) RETURNS uuid LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = sfp, pg_temp AS $$
  INSERT INTO audit_log (actor, action, subject, detail, tag)
  VALUES ('admin', 'dispatcher.enrolled', 'dispatcher:' || with_name, jsonb_build_object('slots', with_slots), with_tag);
  INSERT INTO enrolments (name, role, token_hash, public_key, slots)
  VALUES (with_name, with_role, with_hash, with_key, with_slots)
  RETURNING id
$$;

-- End an enrolment. From here on nothing that it holds can be written, and the next look finds its attempts lost.
-- Answers its login role, which is to be dropped. NULL: there is none of that name.
CREATE FUNCTION sfp.unenrol(of_name text, with_tag bytea DEFAULT NULL) RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = sfp, pg_temp AS $$
DECLARE
  gone enrolments;
BEGIN
  DELETE FROM enrolments WHERE name = of_name RETURNING * INTO gone;
  IF NOT FOUND THEN
    RETURN NULL;
  END IF;
  UPDATE attempts SET lease_expires_at = now() - interval '1 second'
   WHERE status = 'active' AND dispatcher_id IN (SELECT id FROM dispatchers WHERE enrolment = gone.id);
  UPDATE dispatchers SET seen_at = '-infinity' WHERE enrolment = gone.id;
  INSERT INTO audit_log (actor, action, subject, tag)
  VALUES ('admin', 'dispatcher.removed', 'dispatcher:' || of_name, with_tag);
  RETURN gone.role;
END $$;
CREATE POLICY audit_log_of_admin ON sfp.audit_log FOR INSERT TO sfp_migrator WITH CHECK (team_id IS NULL);
REVOKE ALL ON FUNCTION sfp.enrol(text, text, bytea, bytea, int, bytea), sfp.unenrol(text, bytea) FROM PUBLIC;

RESET ROLE;
CREATE SCHEMA IF NOT EXISTS sfp_remote;
GRANT USAGE, CREATE ON SCHEMA sfp_remote TO sfp_remote_steps;
GRANT USAGE ON SCHEMA sfp_remote TO sfp_remote_dispatcher;
SET ROLE sfp_remote_steps;
SET search_path = sfp_remote;
ALTER DEFAULT PRIVILEGES IN SCHEMA sfp_remote REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;

-- The caller's enrolment; no row when it was removed.
CREATE FUNCTION me() RETURNS sfp.enrolments LANGUAGE sql STABLE SECURITY DEFINER SET search_path = sfp, pg_temp AS $$
  SELECT enrolments FROM enrolments WHERE role = session_user
$$;

-- Whether a dispatcher is one of the caller's.
CREATE FUNCTION is_mine(dispatcher uuid) RETURNS boolean LANGUAGE sql STABLE SECURITY DEFINER SET search_path = sfp, pg_temp AS $$
  SELECT EXISTS (SELECT FROM dispatchers
                   JOIN enrolments ON enrolments.id = dispatchers.enrolment
                  WHERE dispatchers.id = dispatcher AND enrolments.role = session_user)
$$;

-- The team of a running attempt that the caller holds. NULL: it does not hold it (any more).
CREATE FUNCTION held(of_task uuid, of_attempt int) RETURNS uuid LANGUAGE sql STABLE SECURITY DEFINER SET search_path = sfp, pg_temp AS $$
  SELECT team_id FROM attempts
   WHERE task_id = of_task AND attempt = of_attempt AND status = 'active' AND sfp_remote.is_mine(dispatcher_id)
$$;

-- The endings of attempts that the caller holds; of others nothing is heard.
CREATE FUNCTION held_ones(endings jsonb) RETURNS jsonb LANGUAGE sql STABLE SECURITY DEFINER SET search_path = sfp, pg_temp AS $$
  SELECT coalesce(jsonb_agg(one), '[]')
    FROM jsonb_array_elements(endings) AS one
   WHERE sfp_remote.held((one ->> 'task_id')::uuid, (one ->> 'attempt')::int) IS NOT NULL
$$;

-- As sfp.finish_and_claim. The machine's ceiling is the enrolment's, for all its dispatchers together: the lock lets one
-- of them count at a time. What it hands in makes room for what it takes.
CREATE FUNCTION finish_and_claim(endings jsonb, by_dispatcher uuid, on_runtimes text[], team_limit int,
                                 preemptions_at_most int, up_to int)
RETURNS TABLE (ended uuid, task sfp.tasks) LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = sfp, pg_temp AS $$
DECLARE
  mine  enrolments := sfp_remote.me();
  ours  jsonb := sfp_remote.held_ones(endings);
  taken int;
BEGIN
  IF mine.id IS NULL OR NOT sfp_remote.is_mine(by_dispatcher) THEN
    RETURN;
  END IF;
  IF up_to > 0 THEN
    PERFORM pg_advisory_xact_lock(hashtext('sfp.machine'), hashtext(mine.name));
    SELECT count(*) INTO taken
      FROM attempts
      JOIN dispatchers ON dispatchers.id = attempts.dispatcher_id
     WHERE attempts.status = 'active' AND dispatchers.enrolment = mine.id
       AND NOT attempts.task_id = ANY (ARRAY(SELECT (one ->> 'task_id')::uuid FROM jsonb_array_elements(ours) AS one));
  END IF;
  RETURN QUERY SELECT * FROM finish_and_claim(ours, by_dispatcher, on_runtimes, team_limit, preemptions_at_most,
                                              greatest(0, least(up_to, mine.slots - taken)));
END $$;

CREATE FUNCTION unheard(by_dispatcher uuid, known uuid[]) RETURNS SETOF sfp.tasks
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = sfp, pg_temp AS $$
  SELECT unheard.* FROM unheard(by_dispatcher, known) WHERE sfp_remote.is_mine(by_dispatcher)
$$;

CREATE FUNCTION finish(endings jsonb) RETURNS SETOF uuid
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = sfp, pg_temp AS $$
  SELECT finish(sfp_remote.held_ones(endings))
$$;

CREATE FUNCTION progress(of_task uuid, of_attempt int, percent int, with_step text) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = sfp, pg_temp AS $$
BEGIN
  RETURN sfp_remote.held(of_task, of_attempt) IS NOT NULL AND progress(of_task, of_attempt, percent, with_step);
END $$;

CREATE FUNCTION log_lines(of_task uuid, of_attempt int, after bigint, lines jsonb[]) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = sfp, pg_temp AS $$
BEGIN
  IF sfp_remote.held(of_task, of_attempt) IS NULL THEN
    RETURN NULL;
  END IF;
  RETURN log_lines(of_task, of_attempt, after, lines);
END $$;

CREATE FUNCTION add_ticket(with_hash bytea, of_task uuid, of_attempt int) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = sfp, pg_temp AS $$
DECLARE
  of_team uuid := sfp_remote.held(of_task, of_attempt);
BEGIN
  IF of_team IS NOT NULL THEN
    PERFORM set_config('sfp.team_id', of_team::text, true);
    PERFORM add_ticket(with_hash, of_task, of_attempt);
  END IF;
END $$;

CREATE FUNCTION save_handle(of_task uuid, of_attempt int, with_handle text, with_runtime text) RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = sfp, pg_temp AS $$
  SELECT save_handle(of_task, of_attempt, with_handle, with_runtime)
   WHERE sfp_remote.held(of_task, of_attempt) IS NOT NULL
$$;

CREATE FUNCTION renew(by_dispatcher uuid, of_tasks uuid[])
RETURNS TABLE (task_id uuid, attempt int, cancel_requested_at timestamptz, preempt_asked_at timestamptz)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = sfp, pg_temp AS $$
BEGIN
  IF sfp_remote.is_mine(by_dispatcher) THEN
    RETURN QUERY SELECT * FROM renew(by_dispatcher, of_tasks);
  END IF;
END $$;

CREATE FUNCTION abandoned(on_host text, alive uuid[])
RETURNS TABLE (task_id uuid, attempt int, team_id uuid, handle text, runtime text, max_attempts int, retry_config jsonb,
               preemptions int, cancel_requested_at timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = sfp, pg_temp AS $$
  SELECT * FROM abandoned(on_host, alive) AS left_behind
   WHERE sfp_remote.held(left_behind.task_id, left_behind.attempt) IS NOT NULL
$$;

-- As sfp.announce; which enrolment it is, and how many slots it has at most, is not the caller's to say.
CREATE FUNCTION announce(dispatcher uuid, on_host text, with_pid int, has_runtimes text[], has_isolation jsonb,
                         has_toolchains jsonb, has_slots int, has_version text) RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = sfp, pg_temp AS $$
  INSERT INTO dispatchers AS known (id, enrolment, name, host, pid, runtimes, isolation, toolchains, slots, version)
  SELECT dispatcher, id, name, left(on_host, 500), with_pid, has_runtimes, has_isolation, has_toolchains,
         least(has_slots, slots), left(has_version, 50)
    FROM sfp_remote.me()
   WHERE id IS NOT NULL
  ON CONFLICT (id) DO UPDATE SET seen_at = now(), runtimes = excluded.runtimes, isolation = excluded.isolation,
                                 toolchains = excluded.toolchains, slots = excluded.slots
   WHERE known.enrolment = excluded.enrolment
$$;

CREATE FUNCTION leave(dispatcher uuid) RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = sfp, pg_temp AS $$
  SELECT leave(dispatcher) WHERE sfp_remote.is_mine(dispatcher)
$$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA sfp_remote FROM PUBLIC;
GRANT EXECUTE ON FUNCTION finish_and_claim, unheard, finish, progress, log_lines, add_ticket, save_handle, renew, abandoned,
                          announce, leave TO sfp_remote_dispatcher;

RESET ROLE;
REVOKE CREATE ON SCHEMA sfp_remote FROM sfp_remote_steps;
RESET search_path;

-- A session's temporary tables come before everything else unless they are named last: nobody must be able to put one
-- in the place of a table that a function with more rights than the caller's means.
DO $$
DECLARE
  step regprocedure;
BEGIN
  EXECUTE format('REVOKE TEMPORARY ON DATABASE %I FROM PUBLIC', current_database());
  SET LOCAL ROLE sfp_migrator;
  FOR step IN SELECT oid FROM pg_proc WHERE pronamespace = 'sfp'::regnamespace AND 'search_path=sfp' = ANY (proconfig) LOOP
    EXECUTE format('ALTER FUNCTION %s SET search_path = sfp, pg_temp', step);
  END LOOP;
  RESET ROLE;
END $$;
