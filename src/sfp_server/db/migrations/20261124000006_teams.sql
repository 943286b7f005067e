-- Users, teams and memberships: what nobody can get around, and the same rights for people who come through PostgREST or
-- Supabase (role `authenticated`). The reasoning: docs/decisions/0021-teams-and-supabase.md.

SET lock_timeout = '5s';
SET ROLE sfp_migrator;
SET search_path = sfp;

------------------------------------------------------------------------------------------------- members

-- The functions below act for nobody's team: they see all rows, and say nothing about them.
CREATE POLICY teams_maintained ON teams TO sfp_migrator USING (true);
CREATE POLICY memberships_maintained ON memberships FOR SELECT TO sfp_migrator USING (true);

-- Who may change the members of a team, whatever the code believes:
-- a team keeps an owner that can sign in; a user who is no owner of the team changes nothing there but leaves it; the first
-- member of a team may be anybody. One change of a team's members at a time, so that two owners cannot demote each other.
CREATE FUNCTION memberships_guarded() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = sfp, pg_temp AS $$
DECLARE
  me      uuid := current_user_id();
  of_team uuid := coalesce(NEW.team_id, OLD.team_id);
BEGIN
  PERFORM FROM teams WHERE id = of_team FOR NO KEY UPDATE;
  IF NOT FOUND THEN  -- the team itself goes, its members with it
    RETURN coalesce(NEW, OLD);
  END IF;
  IF TG_OP = 'UPDATE' AND (NEW.team_id, NEW.user_id) <> (OLD.team_id, OLD.user_id) THEN
    RAISE EXCEPTION 'a membership keeps its team and its user' USING ERRCODE = 'restrict_violation',
      CONSTRAINT = 'memberships_stay';
  END IF;
  IF me IS NOT NULL AND NOT (TG_OP = 'DELETE' AND OLD.user_id = me)
     AND EXISTS (SELECT FROM memberships WHERE team_id = of_team)
     AND NOT EXISTS (SELECT FROM memberships WHERE team_id = of_team AND user_id = me AND role = 'owner') THEN
    RAISE EXCEPTION 'only its owners change the members of a team' USING ERRCODE = 'restrict_violation',
      CONSTRAINT = 'memberships_by_owners';
  END IF;
  IF TG_OP <> 'INSERT' AND OLD.role = 'owner' AND (TG_OP = 'DELETE' OR NEW.role <> 'owner')
     AND NOT EXISTS (SELECT FROM memberships JOIN users ON users.id = user_id
                      WHERE team_id = of_team AND role = 'owner' AND user_id <> OLD.user_id AND disabled_at IS NULL) THEN
    RAISE EXCEPTION 'a team keeps an owner' USING ERRCODE = 'restrict_violation', CONSTRAINT = 'memberships_last_owner';
  END IF;
  RETURN coalesce(NEW, OLD);
END $$;
CREATE TRIGGER memberships_guarded BEFORE INSERT OR UPDATE OR DELETE ON memberships
  FOR EACH ROW EXECUTE FUNCTION memberships_guarded();

-- There is always a team. (The lock: two owners cannot each delete the other's.)
CREATE FUNCTION teams_keep_one() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = sfp, pg_temp AS $$
BEGIN
  PERFORM pg_advisory_xact_lock(hashtext('sfp.teams'));
  IF NOT EXISTS (SELECT FROM teams WHERE id <> OLD.id) THEN
    RAISE EXCEPTION 'the last team stays' USING ERRCODE = 'restrict_violation', CONSTRAINT = 'teams_last';
  END IF;
  RETURN OLD;
END $$;
CREATE TRIGGER teams_keep_one BEFORE DELETE ON teams FOR EACH ROW EXECUTE FUNCTION teams_keep_one();

-- The tables in which a team still has something (the actor's team, by row-level security), for whoever wants to delete
-- it. Histories and what only goes with something else do not count; nor does a token that opens nothing any more.
CREATE FUNCTION team_leftovers(of_team uuid) RETURNS text[] LANGUAGE plpgsql STABLE SET search_path = sfp, pg_temp AS $$
DECLARE
  of_table  text;
  has_some  boolean;
  leftovers text[] := '{}';
BEGIN
  FOR of_table IN
    SELECT relname FROM pg_class
      JOIN pg_attribute ON attrelid = pg_class.oid AND attname = 'team_id'
     WHERE relnamespace = 'sfp'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition
       AND relname <> ALL (ARRAY['memberships', 'channels', 'events', 'idempotency_keys', 'audit_log'])
       AND has_column_privilege(attrelid, attnum, 'SELECT')
     ORDER BY relname
  LOOP
    EXECUTE format('SELECT EXISTS (SELECT FROM %I WHERE team_id = $1 %s)', of_table,
                   CASE of_table WHEN 'application_tokens' THEN 'AND revoked_at IS NULL AND expires_at > now()' END)
       INTO has_some USING of_team;
    IF has_some THEN
      leftovers := leftovers || of_table;
    END IF;
  END LOOP;
  RETURN leftovers;
END $$;

-------------------------------------------------------------------------------------------------- tokens

-- Tokens belong to the team and outlive the membership of whoever made them, whose name they keep.
ALTER TABLE application_tokens
  ADD COLUMN created_by_name text NOT NULL,
  ALTER COLUMN created_by DROP NOT NULL,
  DROP CONSTRAINT application_tokens_created_by_fkey,
  ADD CONSTRAINT application_tokens_made_by_member FOREIGN KEY (team_id, created_by)
    REFERENCES memberships (team_id, user_id) ON DELETE SET NULL (created_by);
CREATE INDEX application_tokens_by_maker ON application_tokens (team_id, created_by);

-- An occurrence is of a series of its own team.
ALTER TABLE schedules ADD CONSTRAINT schedules_of_team UNIQUE (team_id, task_id);
ALTER TABLE occurrences
  DROP CONSTRAINT occurrences_series_id_fkey,
  ADD CONSTRAINT occurrences_of_team FOREIGN KEY (team_id, series_id)
    REFERENCES schedules (team_id, task_id) ON DELETE CASCADE;

--------------------------------------------------------------------------- row-level security without a team

-- Tables without a team are closed too, and each role gets what it needs.
DO $$
DECLARE
  name text;
BEGIN
  FOREACH name IN ARRAY ARRAY['users', 'sessions', 'refresh_tokens', 'login_attempts', 'queues', 'enrolments',
                              'dispatchers'] LOOP
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
    EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
  END LOOP;
END $$;

-- Before anybody is known (signing in, renewing) the API sees all users; then oneself and the team's.
CREATE POLICY users_of_actor ON users FOR SELECT TO sfp_api
  USING (id = current_user_id()
         OR id IN (SELECT user_id FROM memberships WHERE team_id = current_team())
         OR current_user_id() IS NULL AND current_team() IS NULL);
CREATE POLICY users_changed ON users FOR UPDATE TO sfp_api
  USING (id = current_user_id()
         OR id IN (SELECT user_id FROM memberships WHERE team_id = current_team())
         OR current_user_id() IS NULL AND current_team() IS NULL);
CREATE POLICY users_added ON users FOR INSERT TO sfp_api WITH CHECK (current_team() IS NULL);
CREATE POLICY users_maintained ON users TO sfp_migrator USING (true) WITH CHECK (true);
-- The team whose owner chose the password; NULL: nobody but the user or the operator knows it. It opens what that team's
-- owners could open anyway, so it goes when the user comes to mean more (`teams.join`, `flows`).
ALTER TABLE users ADD COLUMN password_by uuid;
REVOKE UPDATE, DELETE ON users FROM sfp_api;
GRANT UPDATE (email, first_name, last_name, password_hash, password_by, disabled_at) ON users TO sfp_api;

-- Sessions: one's own, and all before anybody is known.
CREATE POLICY sessions_of_oneself ON sessions TO sfp_api
  USING (user_id = current_user_id() OR current_user_id() IS NULL AND current_team() IS NULL)
  WITH CHECK (user_id = current_user_id() OR current_user_id() IS NULL AND current_team() IS NULL);
CREATE POLICY sessions_maintained ON sessions FOR SELECT TO sfp_migrator USING (true);
CREATE POLICY refresh_tokens_of_seen_sessions ON refresh_tokens TO sfp_api
  USING (session_id IN (SELECT id FROM sessions)) WITH CHECK (session_id IN (SELECT id FROM sessions));
-- Guesses are counted for whoever guesses.
CREATE POLICY login_attempts_all ON login_attempts TO sfp_api USING (true) WITH CHECK (true);

-- The instance's, for all teams; columns and verbs are a matter of grants.
CREATE POLICY queues_seen ON queues TO sfp_api, sfp_dispatcher USING (true) WITH CHECK (true);
CREATE POLICY queues_maintained ON queues FOR SELECT TO sfp_migrator USING (true);
CREATE POLICY dispatchers_seen ON dispatchers FOR SELECT TO sfp_api, sfp_broker, sfp_courier USING (true);
CREATE POLICY dispatchers_all ON dispatchers TO sfp_dispatcher USING (true) WITH CHECK (true);
CREATE POLICY dispatchers_maintained ON dispatchers TO sfp_migrator USING (true) WITH CHECK (true);
CREATE POLICY enrolments_seen ON enrolments FOR SELECT TO sfp_api, sfp_dispatcher, sfp_broker, sfp_courier USING (true);
CREATE POLICY enrolments_maintained ON enrolments TO sfp_migrator USING (true) WITH CHECK (true);

-- A team is seen by its members; made and changed only from inside.
DROP POLICY teams_of_actor ON teams;
CREATE POLICY teams_of_actor ON teams FOR SELECT TO sfp_api
  USING (id = current_team()
         OR id IN (SELECT team_id FROM memberships WHERE user_id = current_user_id())
         OR id IN (SELECT team_id FROM application_tokens WHERE token_hash = presented_hash()));
CREATE POLICY teams_made ON teams FOR INSERT TO sfp_api WITH CHECK (id = current_team());
CREATE POLICY teams_changed ON teams FOR UPDATE TO sfp_api USING (id = current_team());
CREATE POLICY teams_ended ON teams FOR DELETE TO sfp_api USING (id = current_team());
REVOKE UPDATE ON teams FROM sfp_api;
GRANT UPDATE (name, description) ON teams TO sfp_api;
-- (the dispatcher writes no audit entries)
DROP POLICY IF EXISTS audit_log_of_served_team ON audit_log;
REVOKE UPDATE ON memberships FROM sfp_api;
GRANT UPDATE (role) ON memberships TO sfp_api;

--------------------------------------------------------------------------------------------------- users

-- The user with this e-mail address; made when there is none. One who exists stays as it is: to be named in another
-- team changes neither name nor password.
CREATE FUNCTION add_user(with_email text, with_first text, with_last text, with_hash text, OUT id uuid, OUT is_new boolean)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = sfp, pg_temp AS $$
BEGIN
  INSERT INTO users (email, first_name, last_name, password_hash, password_by)
  VALUES (with_email, with_first, with_last, with_hash, CASE WHEN with_hash IS NOT NULL THEN current_team() END)
  ON CONFLICT (email) DO NOTHING
  RETURNING users.id INTO add_user.id;
  is_new := FOUND;
  IF NOT is_new THEN
    SELECT users.id INTO add_user.id FROM users WHERE email = with_email;
  END IF;
END $$;

-- NULL: there is no such user.
CREATE FUNCTION find_user(with_email text) RETURNS uuid
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = sfp, pg_temp AS $$
  SELECT id FROM users WHERE email = with_email AND disabled_at IS NULL
$$;

-- Remove a user who is in no team any more, with all sessions; answers whether that was so. (The lock keeps others from
-- adding the user to a team meanwhile.)
CREATE FUNCTION remove_user(of_user uuid) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = sfp, pg_temp AS $$
BEGIN
  PERFORM FROM users WHERE id = of_user FOR UPDATE;
  DELETE FROM users WHERE id = of_user AND NOT EXISTS (SELECT FROM memberships WHERE user_id = of_user);
  RETURN FOUND;
END $$;
REVOKE ALL ON FUNCTION add_user(text, text, text, text), find_user(text), remove_user(uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION add_user(text, text, text, text), find_user(text), remove_user(uuid) TO sfp_api;
REVOKE ALL ON FUNCTION memberships_guarded(), teams_keep_one() FROM PUBLIC;

------------------------------------------------------------------------------------ PostgREST and Supabase

-- Who asks through PostgREST: its user id is `sub`, which is `users.id`. NULL: nobody, or nothing that is an id.
CREATE FUNCTION jwt_claim(name text) RETURNS text LANGUAGE sql STABLE SET search_path = sfp, pg_temp AS $$
  SELECT coalesce(nullif(current_setting('request.jwt.claim.' || name, true), ''),
                  nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> name)
$$;
CREATE FUNCTION jwt_id(name text) RETURNS uuid LANGUAGE sql STABLE SET search_path = sfp, pg_temp AS $$
  SELECT CASE WHEN claim ~* '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' THEN claim::uuid END FROM jwt_claim(name) AS claim
$$;

-- The teams of whoever asks, or those in which it has a role. None for a disabled user, nor for a session of ours that
-- has ended. (For the definer's eyes: a policy of `memberships` cannot ask `memberships`.)
CREATE FUNCTION teams_of_caller(as_role text DEFAULT NULL) RETURNS SETOF uuid
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = sfp, pg_temp AS $$
  SELECT team_id
    FROM memberships
    JOIN users ON users.id = user_id
   WHERE user_id = jwt_id('sub')
     AND disabled_at IS NULL
     AND (as_role IS NULL OR role = as_role)
     AND NOT EXISTS (SELECT FROM sessions
                      WHERE sessions.id = jwt_id('session_id') AND (revoked_at IS NOT NULL OR expires_at <= now()))
$$;
CREATE FUNCTION mates_of_caller() RETURNS SETOF uuid
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = sfp, pg_temp AS $$
  SELECT user_id FROM memberships WHERE team_id = ANY (ARRAY(SELECT teams_of_caller()))
$$;
REVOKE ALL ON FUNCTION teams_of_caller(text), mates_of_caller() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION teams_of_caller(text), mates_of_caller() TO authenticated;
GRANT USAGE ON SCHEMA sfp TO authenticated;

-- `= ANY (ARRAY(SELECT …))`: asked once for a statement, and the team's index is used.
DO $$
DECLARE
  name text;
BEGIN
  FOREACH name IN ARRAY ARRAY['memberships', 'channels', 'events', 'tasks', 'attempts', 'artifacts', 'schedules'] LOOP
    EXECUTE format('CREATE POLICY %I ON %I FOR SELECT TO authenticated USING (team_id = ANY (ARRAY(SELECT teams_of_caller())))',
                   name || '_of_members', name);
  END LOOP;
  FOREACH name IN ARRAY ARRAY['application_tokens', 'secrets', 'leases', 'audit_log'] LOOP
    EXECUTE format('CREATE POLICY %I ON %I FOR SELECT TO authenticated '
                   'USING (team_id = ANY (ARRAY(SELECT teams_of_caller(''owner''))))', name || '_of_owners', name);
  END LOOP;
END $$;
CREATE POLICY teams_of_members ON teams FOR SELECT TO authenticated USING (id = ANY (ARRAY(SELECT teams_of_caller())));
CREATE POLICY users_of_members ON users FOR SELECT TO authenticated USING (id = ANY (ARRAY(SELECT mates_of_caller())));

-- Reading only, and never a hash, what is sealed, a worker's handle or an address.
GRANT SELECT ON teams, memberships, channels, events, schedules TO authenticated;
GRANT SELECT (id, email, first_name, last_name, created_at) ON users TO authenticated;
GRANT SELECT (id, team_id, type, data, priority, schedule_type, labels, status, reason, reason_detail, attempt, max_attempts,
              retry_config, timeout_seconds, concurrency_key, runtime, network, limits, credentials, created_by_name,
              created_at, due_at, started_at, finished_at, progress, step, error, result, retry_of, series_id)
  ON tasks TO authenticated;
GRANT SELECT (task_id, attempt, team_id, queue, status, runtime, started_at, ended_at, exit_code, signal, error, usage)
  ON attempts TO authenticated;
GRANT SELECT (id, team_id, task_id, attempt, name, size, sha256, content_type, created_at) ON artifacts TO authenticated;
GRANT SELECT (id, team_id, name, scopes, created_by_name, created_at, expires_at, revoked_at, last_used_at)
  ON application_tokens TO authenticated;
GRANT SELECT (id, team_id, name, version, created_at, updated_at) ON secrets TO authenticated;
GRANT SELECT (id, team_id, task_id, attempt, kind, name, version, leased_at, ended_at) ON leases TO authenticated;
GRANT SELECT (id, team_id, at, actor, action, subject, detail) ON audit_log TO authenticated;

RESET ROLE;
RESET search_path;

-- Supabase brings these; elsewhere they are made, so that policies of others that use them work in both places.
DO $$
BEGIN
  IF to_regprocedure('auth.uid()') IS NULL THEN
    CREATE SCHEMA IF NOT EXISTS auth;
    GRANT USAGE ON SCHEMA auth TO anon, authenticated, service_role;
    CREATE FUNCTION auth.uid() RETURNS uuid LANGUAGE sql STABLE AS $f$
      SELECT coalesce(nullif(current_setting('request.jwt.claim.sub', true), ''),
                      nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')::uuid
    $f$;
  END IF;
  IF to_regprocedure('auth.role()') IS NULL THEN
    CREATE FUNCTION auth.role() RETURNS text LANGUAGE sql STABLE AS $f$
      SELECT coalesce(nullif(current_setting('request.jwt.claim.role', true), ''),
                      nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'role')
    $f$;
  END IF;
  IF to_regprocedure('auth.jwt()') IS NULL THEN
    CREATE FUNCTION auth.jwt() RETURNS jsonb LANGUAGE sql STABLE AS $f$
      SELECT coalesce(nullif(current_setting('request.jwt.claim', true), ''),
                      nullif(current_setting('request.jwt.claims', true), ''))::jsonb
    $f$;
  END IF;
END $$;
