-- The first schema: teams, identity, tasks, credentials, events, audit.
-- Forward only. Suits `supabase db push` too: roles are made here when missing (without a password;
-- `sfp_server.db.migrate` sets those), and nothing needs superuser rights.

SET lock_timeout = '5s';

DO $$
DECLARE
  role text;
BEGIN
  FOREACH role IN ARRAY ARRAY['sfp_migrator', 'sfp_api', 'sfp_dispatcher', 'sfp_broker', 'sfp_deliverer',
                              'sfp_courier', 'anon', 'authenticated', 'service_role'] LOOP
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN
      EXECUTE format('CREATE ROLE %I NOLOGIN NOINHERIT', role);
    END IF;
  END LOOP;
END $$;

GRANT sfp_migrator TO CURRENT_USER;
CREATE SCHEMA IF NOT EXISTS sfp AUTHORIZATION sfp_migrator;
SET ROLE sfp_migrator;
SET search_path = sfp;

GRANT USAGE ON SCHEMA sfp TO sfp_api, sfp_dispatcher, sfp_broker, sfp_deliverer, sfp_courier;

------------------------------------------------------------------------------------------------ functions

-- Time-ordered ids (RFC 9562, version 7), for PostgreSQL before 18 too. The microseconds are in it (method 3), so that
-- what one transaction makes is in order.
CREATE FUNCTION uuid7() RETURNS uuid LANGUAGE sql VOLATILE SET search_path = pg_catalog AS $$
  SELECT encode(
    set_byte(set_byte(
      overlay(uuid_send(gen_random_uuid()) PLACING substring(int8send(us / 1000) FROM 3) FROM 1 FOR 6),
      6, 112 + ((us % 1000) * 4096 / 1000 / 256)::int), 7, ((us % 1000) * 4096 / 1000 % 256)::int), 'hex')::uuid
    FROM (SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS us) AS clock
$$;

-- The team, the user and the presented token hash of this transaction. A setting that was made local reads
-- as '' (not NULL) when the pooled connection is used again: nullif makes both mean "none", so no rows.
CREATE FUNCTION current_team() RETURNS uuid LANGUAGE sql STABLE
  AS $$ SELECT nullif(current_setting('sfp.team_id', true), '')::uuid $$;
CREATE FUNCTION current_user_id() RETURNS uuid LANGUAGE sql STABLE
  AS $$ SELECT nullif(current_setting('sfp.user_id', true), '')::uuid $$;
CREATE FUNCTION presented_hash() RETURNS bytea LANGUAGE sql STABLE
  AS $$ SELECT decode(nullif(current_setting('sfp.presented_hash', true), ''), 'hex') $$;

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END $$;

------------------------------------------------------------------------------------------------ identity

CREATE TABLE teams (
  id          uuid PRIMARY KEY DEFAULT uuid7(),
  slug        text NOT NULL CONSTRAINT teams_slug_unique UNIQUE
              CONSTRAINT teams_slug_form CHECK (slug ~ '^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$'),
  name        text NOT NULL,
  description text NOT NULL DEFAULT '',
  created_at  timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE users (
  id            uuid PRIMARY KEY DEFAULT uuid7(),
  email         text NOT NULL CONSTRAINT users_email_unique UNIQUE
                CONSTRAINT users_email_lower CHECK (email = lower(email)),
  first_name    text NOT NULL DEFAULT '',
  last_name     text NOT NULL DEFAULT '',
  password_hash text,
  created_at    timestamptz NOT NULL DEFAULT now(),
  disabled_at   timestamptz
);

CREATE TABLE memberships (
  team_id    uuid NOT NULL REFERENCES teams ON DELETE CASCADE,
  user_id    uuid NOT NULL REFERENCES users ON DELETE CASCADE,
  role       text NOT NULL CONSTRAINT memberships_role CHECK (role IN ('member', 'owner')),
  created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (team_id, user_id)
);
CREATE INDEX memberships_by_user ON memberships (user_id, created_at);

CREATE TABLE sessions (
  id           uuid PRIMARY KEY DEFAULT uuid7(),
  user_id      uuid NOT NULL REFERENCES users ON DELETE CASCADE,
  created_at   timestamptz NOT NULL DEFAULT now(),
  last_used_at timestamptz NOT NULL DEFAULT now(),
  expires_at   timestamptz NOT NULL,
  revoked_at   timestamptz,
  address      text NOT NULL DEFAULT '',
  user_agent   text NOT NULL DEFAULT ''
);
CREATE INDEX sessions_by_user ON sessions (user_id);

-- Every refresh token of a session, used or not: the re-use of a used one revokes the session.
CREATE TABLE refresh_tokens (
  token_hash bytea PRIMARY KEY,
  session_id uuid NOT NULL REFERENCES sessions ON DELETE CASCADE,
  created_at timestamptz NOT NULL DEFAULT now(),
  expires_at timestamptz NOT NULL,
  used_at    timestamptz
);
CREATE INDEX refresh_tokens_by_session ON refresh_tokens (session_id);

-- Failed guesses per subject (`account:<sha256>`, `address:<ip>`): survive restarts and cache flushes.
CREATE TABLE login_attempts (
  subject  text PRIMARY KEY,
  failures int NOT NULL,
  last_at  timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX login_attempts_by_age ON login_attempts (last_at);

CREATE TABLE application_tokens (
  id           uuid PRIMARY KEY DEFAULT uuid7(),
  team_id      uuid NOT NULL REFERENCES teams ON DELETE CASCADE,
  name         text NOT NULL CONSTRAINT application_tokens_name CHECK (length(name) BETWEEN 1 AND 200),
  token_hash   bytea NOT NULL CONSTRAINT application_tokens_hash_unique UNIQUE,
  scopes       text[] NOT NULL,
  created_by   uuid NOT NULL REFERENCES users,
  created_at   timestamptz NOT NULL DEFAULT now(),
  expires_at   timestamptz NOT NULL,
  revoked_at   timestamptz,
  last_used_at timestamptz,
  CONSTRAINT application_tokens_life CHECK (expires_at <= created_at + interval '365 days 1 hour')
);
CREATE INDEX application_tokens_by_team ON application_tokens (team_id, id);

-- Whatever decides what somebody may do has changed: API processes forget what they have cached. The payload says
-- nothing, since everybody may listen.
CREATE FUNCTION identity_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_notify('sfp_identity', '');
  RETURN NULL;
END $$;
CREATE TRIGGER memberships_changed AFTER INSERT OR UPDATE OR DELETE ON memberships
  FOR EACH STATEMENT EXECUTE FUNCTION identity_changed();
CREATE TRIGGER users_changed AFTER UPDATE OF email, disabled_at OR DELETE ON users
  FOR EACH STATEMENT EXECUTE FUNCTION identity_changed();
CREATE TRIGGER sessions_changed AFTER UPDATE OF revoked_at OR DELETE ON sessions
  FOR EACH STATEMENT EXECUTE FUNCTION identity_changed();
CREATE TRIGGER application_tokens_changed AFTER UPDATE OF revoked_at, scopes, expires_at OR DELETE ON application_tokens
  FOR EACH STATEMENT EXECUTE FUNCTION identity_changed();
CREATE TRIGGER teams_changed AFTER UPDATE OF slug OR DELETE ON teams
  FOR EACH STATEMENT EXECUTE FUNCTION identity_changed();

-------------------------------------------------------------------------------------------------- events

-- Numbers rise by one per channel without holes: the channel's row stays locked until the event's
-- transaction ends, so number n is visible before n+1 is given.
CREATE TABLE channels (
  team_id  uuid NOT NULL REFERENCES teams ON DELETE CASCADE,
  name     text NOT NULL,
  last_seq bigint NOT NULL,
  PRIMARY KEY (team_id, name)
);

CREATE TABLE events (
  team_id uuid NOT NULL,
  channel text NOT NULL,
  seq     bigint NOT NULL,
  event   text NOT NULL,
  at      timestamptz NOT NULL DEFAULT clock_timestamp(),
  data    jsonb NOT NULL,
  PRIMARY KEY (team_id, channel, seq, at)
) PARTITION BY RANGE (at);  -- old months are dropped whole: `20261123000003_partitions.sql`

-- A channel's events go with it. (A foreign key would look each new event's channel up and lock it once more, right
-- after the functions below did.)
CREATE FUNCTION channels_take_events() RETURNS trigger LANGUAGE plpgsql SET search_path = sfp AS $$
BEGIN
  DELETE FROM events WHERE team_id = OLD.team_id AND channel = OLD.name;
  RETURN NULL;
END $$;
CREATE TRIGGER channels_take_events AFTER DELETE ON channels FOR EACH ROW EXECUTE FUNCTION channels_take_events();

-- Marks a notification whose readers may wait a few milliseconds: more is about to be told of the same task, and to tell
-- each step at once would slow down the steps of short tasks themselves.
CREATE FUNCTION haste_of(event_name text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
  SELECT CASE WHEN event_name IN ('task.created', 'task.started') THEN '~' ELSE '' END
$$;

-- Append one event to each of `to_channels` and wake the readers. Call it last in a transaction, and once:
-- channel rows are locked in the order of their names, so that two transactions cannot deadlock.
CREATE FUNCTION record_event(to_team uuid, to_channels text[], event_name text, event_data jsonb)
RETURNS void LANGUAGE sql VOLATILE SET search_path = sfp AS $$
  WITH numbered AS (
    INSERT INTO channels AS c (team_id, name, last_seq)
    SELECT to_team, name, 1 FROM (SELECT DISTINCT unnest(to_channels) AS name ORDER BY 1) AS names
    ON CONFLICT (team_id, name) DO UPDATE SET last_seq = c.last_seq + 1
    RETURNING name, last_seq
  ), added AS (
    INSERT INTO events (team_id, channel, seq, event, data)
    SELECT to_team, name, last_seq, event_name, event_data FROM numbered
    RETURNING channel, seq
  )
  SELECT pg_notify('sfp_events', to_team || ' ' || seq || haste_of(event_name) || ' ' || channel) FROM added
$$;

-- Append many events of one name to one channel, in order; answers the last number.
CREATE FUNCTION record_batch(to_team uuid, to_channel text, event_name text, event_data jsonb[])
RETURNS bigint LANGUAGE sql VOLATILE SET search_path = sfp AS $$
  WITH numbered AS (
    INSERT INTO channels AS c (team_id, name, last_seq)
    VALUES (to_team, to_channel, cardinality(event_data))
    ON CONFLICT (team_id, name) DO UPDATE SET last_seq = c.last_seq + cardinality(event_data)
    RETURNING last_seq
  ), added AS (
    INSERT INTO events (team_id, channel, seq, event, data)
    SELECT to_team, to_channel, last_seq - cardinality(event_data) + item.number, event_name, item.data
      FROM numbered, unnest(event_data) WITH ORDINALITY AS item (data, number)
    RETURNING seq
  ), told AS (
    SELECT pg_notify('sfp_events', to_team || ' ' || max(seq) || ' ' || to_channel), max(seq) AS seq FROM added
  )
  SELECT seq FROM told
$$;

--------------------------------------------------------------------------------------------------- tasks

CREATE TABLE queues (
  name   text PRIMARY KEY CONSTRAINT queues_name CHECK (name IN ('critical', 'normal', 'batch')),
  slots  int NOT NULL CONSTRAINT queues_slots CHECK (slots BETWEEN 0 AND 1000),
  paused boolean NOT NULL DEFAULT false
);
INSERT INTO queues (name, slots) VALUES ('critical', 1), ('normal', 2), ('batch', 1);
-- The slots that the configuration named last: only a change of it overrides what was set while running.
ALTER TABLE queues ADD COLUMN configured int;

-- The right of another machine to run tasks. Its login role has no other way in than the functions of the schema
-- `sfp_remote`; of its token only what checks it is here.
CREATE TABLE enrolments (
  id         uuid PRIMARY KEY DEFAULT uuid7(),
  name       text NOT NULL CONSTRAINT enrolments_name_unique UNIQUE
             CONSTRAINT enrolments_name_form CHECK (name ~ '^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$'),
  role       text NOT NULL CONSTRAINT enrolments_role_unique UNIQUE,
  token_hash bytea NOT NULL CONSTRAINT enrolments_token_unique UNIQUE,
  public_key bytea NOT NULL,
  slots      int NOT NULL CONSTRAINT enrolments_slots CHECK (slots BETWEEN 0 AND 1000),
  created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE dispatchers (
  id         uuid PRIMARY KEY,
  -- NULL: a process of the instance itself
  enrolment  uuid,
  name       text NOT NULL DEFAULT 'local',
  host       text NOT NULL,
  pid        int NOT NULL,
  version    text NOT NULL DEFAULT '',
  -- attempts that it may have at once; NULL: as many as the queues have slots
  slots      int,
  runtimes   text[] NOT NULL,
  -- name → version
  toolchains jsonb NOT NULL DEFAULT '{}',
  isolation  jsonb NOT NULL DEFAULT '{}',
  started_at timestamptz NOT NULL DEFAULT now(),
  seen_at    timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE tasks (
  id                    uuid PRIMARY KEY DEFAULT uuid7(),
  team_id               uuid NOT NULL REFERENCES teams ON DELETE CASCADE,
  type                  text NOT NULL,
  data                  jsonb NOT NULL,
  priority              text NOT NULL REFERENCES queues (name),
  schedule_type         text NOT NULL CONSTRAINT tasks_schedule_type
                        CHECK (schedule_type IN ('immediate', 'scheduled', 'recurring')),
  labels                jsonb NOT NULL DEFAULT '{}',
  status                text NOT NULL DEFAULT 'pending' CONSTRAINT tasks_status
                        CHECK (status IN ('pending', 'active', 'completed', 'failed', 'cancelled')),
  reason                text DEFAULT 'queued' CONSTRAINT tasks_reason
                        CHECK (reason IN ('scheduled', 'queued', 'concurrency', 'quota', 'retry', 'paused', 'no_runtime')),
  reason_detail         text,
  attempt               int NOT NULL DEFAULT 0,
  max_attempts          int NOT NULL DEFAULT 1,
  retry_config          jsonb,
  timeout_seconds       double precision NOT NULL,
  queue_timeout_seconds double precision,
  lease_seconds         double precision NOT NULL,
  concurrency_key       text,
  runtime               text,
  toolchain             text,
  network               text NOT NULL CONSTRAINT tasks_network CHECK (network IN ('none', 'egress')),
  limits                jsonb NOT NULL DEFAULT '{}',
  credentials           jsonb NOT NULL DEFAULT '[]',
  created_by            text NOT NULL,
  created_by_name       text NOT NULL,
  request_id            text NOT NULL DEFAULT '',
  created_at            timestamptz NOT NULL DEFAULT now(),
  due_at                timestamptz NOT NULL DEFAULT now(),
  started_at            timestamptz,
  finished_at           timestamptz,
  progress              smallint NOT NULL DEFAULT 0 CONSTRAINT tasks_progress CHECK (progress BETWEEN 0 AND 100),
  step                  text NOT NULL DEFAULT '',
  error                 jsonb,
  result                jsonb,
  cancel_requested_at   timestamptz,
  cancelled_by          text,
  retry_of              uuid,
  series_id             uuid,
  preemptions           int NOT NULL DEFAULT 0,
  UNIQUE (team_id, id),
  -- A pending task always says why, and only a pending one waits.
  CONSTRAINT tasks_pending_has_reason CHECK ((status = 'pending') = (reason IS NOT NULL)),
  CONSTRAINT tasks_final_has_time CHECK ((status IN ('completed', 'failed', 'cancelled')) = (finished_at IS NOT NULL)),
  CONSTRAINT tasks_failed_has_error CHECK (status <> 'failed' OR error IS NOT NULL)
) PARTITION BY RANGE (id);  -- ids begin with their time, so a range of ids is a month
-- Inside a queue, teams take turns: the first waiting task of each team must be found without reading the others, and
-- without reading those that wait for their concurrency key.
CREATE INDEX tasks_waiting ON tasks (priority, ((reason = 'concurrency')::int), team_id, due_at, id)
  WHERE status = 'pending' AND schedule_type <> 'recurring';
CREATE INDEX tasks_of_key ON tasks (team_id, concurrency_key, priority, due_at, id)
  WHERE status = 'pending' AND schedule_type <> 'recurring' AND concurrency_key IS NOT NULL;
CREATE INDEX tasks_not_due ON tasks (due_at) WHERE status = 'pending' AND reason IN ('scheduled', 'retry');
CREATE INDEX tasks_hurried ON tasks (due_at) WHERE status = 'pending' AND queue_timeout_seconds IS NOT NULL;
CREATE INDEX tasks_by_series ON tasks (series_id, id) WHERE series_id IS NOT NULL;
CREATE INDEX tasks_by_original ON tasks (retry_of) WHERE retry_of IS NOT NULL;
CREATE INDEX tasks_active ON tasks (priority) WHERE status = 'active';
CREATE INDEX tasks_by_team_status ON tasks (team_id, status, id DESC);
CREATE INDEX tasks_labels ON tasks USING gin (labels jsonb_path_ops);

-- Final is final, whoever asks.
CREATE FUNCTION tasks_keep_final() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF OLD.status IN ('completed', 'failed', 'cancelled') AND NEW.status IS DISTINCT FROM OLD.status THEN
    RAISE EXCEPTION 'task % is final', OLD.id USING ERRCODE = 'restrict_violation', CONSTRAINT = 'tasks_final_is_final';
  END IF;
  IF NEW.attempt < OLD.attempt THEN
    RAISE EXCEPTION 'the attempt of task % only rises', OLD.id USING ERRCODE = 'restrict_violation',
      CONSTRAINT = 'tasks_attempt_rises';
  END IF;
  IF NEW.finished_at IS NOT NULL AND OLD.finished_at IS NULL THEN
    PERFORM pg_notify('sfp_ends', NEW.id::text);  -- wakes requests that wait for the result
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER tasks_keep_final BEFORE UPDATE ON tasks FOR EACH ROW
  WHEN (OLD.status IN ('completed', 'failed', 'cancelled') OR NEW.finished_at IS NOT NULL OR NEW.attempt < OLD.attempt)
  EXECUTE FUNCTION tasks_keep_final();

CREATE TABLE attempts (
  task_id          uuid NOT NULL,
  attempt          int NOT NULL,
  team_id          uuid NOT NULL,
  queue            text NOT NULL,
  status           text NOT NULL DEFAULT 'active' CONSTRAINT attempts_status
                   CHECK (status IN ('active', 'completed', 'failed', 'cancelled', 'lost', 'preempted')),
  dispatcher_id    uuid NOT NULL,
  runtime          text NOT NULL,
  handle           text,
  lease_expires_at timestamptz NOT NULL,
  preempt_asked_at timestamptz,
  started_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
  ended_at         timestamptz,
  exit_code        int,
  signal           int,
  error            jsonb,
  usage            jsonb,
  -- log lines written so far: each batch says how many came before it, so that none is written twice
  logged           bigint NOT NULL DEFAULT 0,
  -- numbers of its log lines in the task's channel: after first_seq, up to last_seq
  first_seq        bigint,
  last_seq         bigint,
  PRIMARY KEY (task_id, attempt),
  FOREIGN KEY (team_id, task_id) REFERENCES tasks (team_id, id) ON DELETE CASCADE
) PARTITION BY RANGE (task_id);
-- One task runs once at a time, whatever the code believes.
CREATE UNIQUE INDEX attempts_one_active ON attempts (task_id) WHERE status = 'active';
CREATE INDEX attempts_active ON attempts (queue) WHERE status = 'active';
CREATE INDEX attempts_ended ON attempts (queue, ended_at DESC) WHERE status IN ('completed', 'failed');

-- Two active tasks never share a concurrency key, whichever queues they came through: the key is a row.
CREATE TABLE held_keys (
  team_id uuid NOT NULL,
  key     text NOT NULL,
  task_id uuid NOT NULL,
  CONSTRAINT held_keys_once PRIMARY KEY (team_id, key),
  FOREIGN KEY (team_id, task_id) REFERENCES tasks (team_id, id) ON DELETE CASCADE
);

-- When a team was served last in a queue: the one that waited longest is next.
CREATE TABLE turns (
  queue     text NOT NULL REFERENCES queues,
  team_id   uuid NOT NULL REFERENCES teams ON DELETE CASCADE,
  served_at timestamptz NOT NULL,
  PRIMARY KEY (queue, team_id)
);

-- A recurring task's rhythm. The task itself waits as `scheduled` and never runs; its occurrences do.
CREATE TABLE schedules (
  task_id    uuid PRIMARY KEY,
  team_id    uuid NOT NULL,
  config     jsonb NOT NULL,
  next_at    timestamptz,
  runs       int NOT NULL DEFAULT 0,
  skipped    int NOT NULL DEFAULT 0,
  latest_run uuid,
  FOREIGN KEY (team_id, task_id) REFERENCES tasks (team_id, id) ON DELETE CASCADE
);
CREATE INDEX schedules_due ON schedules (next_at) WHERE next_at IS NOT NULL;

-- One occurrence makes one task, however many dispatchers look at the clock.
CREATE TABLE occurrences (
  series_id uuid NOT NULL REFERENCES schedules ON DELETE CASCADE,
  at        timestamptz NOT NULL,
  team_id   uuid NOT NULL,
  CONSTRAINT occurrences_once PRIMARY KEY (series_id, at)
);

CREATE TABLE artifacts (
  id           uuid PRIMARY KEY DEFAULT uuid7(),
  team_id      uuid NOT NULL REFERENCES teams ON DELETE CASCADE,
  task_id      uuid,
  attempt      int,
  name         text NOT NULL,
  size         bigint NOT NULL,
  sha256       text NOT NULL,
  content_type text NOT NULL DEFAULT 'application/octet-stream',
  created_by   text NOT NULL,
  created_at   timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT artifacts_kept_once UNIQUE (task_id, attempt, name),
  FOREIGN KEY (team_id, task_id) REFERENCES tasks (team_id, id) ON DELETE CASCADE
);
CREATE INDEX artifacts_by_team ON artifacts (team_id, id);

CREATE TABLE idempotency_keys (
  team_id    uuid NOT NULL REFERENCES teams ON DELETE CASCADE,
  actor      text NOT NULL,
  key        text NOT NULL CONSTRAINT idempotency_keys_length CHECK (length(key) BETWEEN 1 AND 255),
  body_hash  bytea NOT NULL,
  status     int NOT NULL,
  response   jsonb NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (team_id, actor, key)
);
CREATE INDEX idempotency_keys_by_age ON idempotency_keys (team_id, created_at);

--------------------------------------------------------------------------------------------- credentials

-- The name of a secret and its version in use; the sealed values are in `secret_versions` (`20261124000010_vault.sql`).
CREATE TABLE secrets (
  id          uuid PRIMARY KEY DEFAULT uuid7(),
  team_id     uuid NOT NULL REFERENCES teams ON DELETE CASCADE,
  name        text NOT NULL CONSTRAINT secrets_name CHECK (name ~ '^[A-Za-z_][A-Za-z0-9_.-]{0,127}$'),
  version     int NOT NULL DEFAULT 1,
  created_by  text NOT NULL,
  created_at  timestamptz NOT NULL DEFAULT now(),
  updated_at  timestamptz NOT NULL DEFAULT now(),
  UNIQUE (team_id, id),
  CONSTRAINT secrets_name_unique UNIQUE (team_id, name)
);

CREATE TABLE worker_tickets (
  token_hash bytea PRIMARY KEY,
  team_id    uuid NOT NULL,
  task_id    uuid NOT NULL,
  attempt    int NOT NULL,
  expires_at timestamptz NOT NULL,
  drawn_at   timestamptz,
  -- one connection of a worker: it may ask again when the answer to its draw was lost
  drawn_by   uuid,
  FOREIGN KEY (team_id, task_id) REFERENCES tasks (team_id, id) ON DELETE CASCADE,
  CONSTRAINT worker_tickets_one_per_attempt UNIQUE (task_id, attempt)
);

CREATE TABLE leases (
  id         uuid PRIMARY KEY DEFAULT uuid7(),
  team_id    uuid NOT NULL REFERENCES teams ON DELETE CASCADE,
  task_id    uuid NOT NULL,
  attempt    int NOT NULL,
  kind       text NOT NULL,
  name       text NOT NULL,
  version    int NOT NULL,
  leased_at  timestamptz NOT NULL DEFAULT now(),
  ended_at   timestamptz,
  -- the lease at an external source, and when it was given back there
  source     text,
  source_id  text,
  revoked_at timestamptz,
  FOREIGN KEY (team_id, task_id) REFERENCES tasks (team_id, id) ON DELETE CASCADE
);
CREATE INDEX leases_to_revoke ON leases (id) WHERE ended_at IS NOT NULL AND source_id IS NOT NULL AND revoked_at IS NULL;
CREATE INDEX leases_open ON leases (team_id, id) WHERE ended_at IS NULL;
CREATE INDEX leases_by_task ON leases (task_id, attempt);

CREATE TABLE audit_log (
  id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  team_id    uuid,
  at         timestamptz NOT NULL DEFAULT clock_timestamp(),
  actor      text NOT NULL,
  action     text NOT NULL,
  subject    text NOT NULL,
  detail     jsonb NOT NULL DEFAULT '{}',
  request_id text NOT NULL DEFAULT '',
  -- with it the writing process vouches for the entry: audit/tag.py
  tag        bytea CONSTRAINT audit_log_tag_once UNIQUE
);
CREATE INDEX audit_log_by_team ON audit_log (team_id, id);
CREATE TRIGGER audit_log_append_only BEFORE UPDATE OR DELETE ON audit_log
  FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER audit_log_never_truncated BEFORE TRUNCATE ON audit_log
  FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

---------------------------------------------------------------------------------------- row-level security

-- Every table with a team is closed by default, to its owner too; each role then gets what it needs.
DO $$
DECLARE
  name text;
BEGIN
  FOREACH name IN ARRAY ARRAY['memberships', 'application_tokens', 'channels', 'events', 'tasks', 'attempts', 'artifacts',
                              'idempotency_keys', 'secrets', 'worker_tickets', 'leases', 'audit_log', 'held_keys', 'turns', 'schedules',
                              'occurrences'] LOOP
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
    EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
  END LOOP;
  -- An actor of the API sees and writes the rows of its own team.
  FOREACH name IN ARRAY ARRAY['memberships', 'application_tokens', 'channels', 'events', 'tasks', 'attempts', 'artifacts',
                              'idempotency_keys', 'secrets', 'leases', 'audit_log', 'schedules', 'held_keys'] LOOP
    EXECUTE format('CREATE POLICY %I ON %I TO sfp_api USING (team_id = current_team()) WITH CHECK (team_id = current_team())',
                   name || '_of_own_team', name);
  END LOOP;
  -- The dispatcher and the broker write inside the team of the task that they serve.
  FOREACH name IN ARRAY ARRAY['channels', 'events', 'artifacts', 'worker_tickets', 'leases', 'audit_log', 'occurrences'] LOOP
    EXECUTE format('CREATE POLICY %I ON %I TO sfp_dispatcher USING (team_id = current_team()) WITH CHECK (team_id = current_team())',
                   name || '_of_served_team', name);
  END LOOP;
END $$;

ALTER TABLE teams ENABLE ROW LEVEL SECURITY;
ALTER TABLE teams FORCE ROW LEVEL SECURITY;
CREATE POLICY teams_of_actor ON teams TO sfp_api
  USING (id = current_team()
         OR id IN (SELECT team_id FROM memberships WHERE user_id = current_user_id())
         OR id IN (SELECT team_id FROM application_tokens WHERE token_hash = presented_hash()))
  WITH CHECK (true);

-- Before there is a team: a user finds the own memberships, a bearer finds the token it presents.
CREATE POLICY memberships_of_oneself ON memberships FOR SELECT TO sfp_api USING (user_id = current_user_id());
CREATE POLICY application_tokens_presented ON application_tokens FOR SELECT TO sfp_api
  USING (token_hash = presented_hash());
CREATE POLICY application_tokens_used ON application_tokens FOR UPDATE TO sfp_api
  USING (token_hash = presented_hash()) WITH CHECK (token_hash = presented_hash());
-- Sign-ins happen before there is a team.
CREATE POLICY audit_log_without_team ON audit_log FOR INSERT TO sfp_api WITH CHECK (team_id IS NULL);

-- The dispatcher serves all teams; which columns it may change is a matter of grants.
CREATE POLICY tasks_all ON tasks TO sfp_dispatcher USING (true) WITH CHECK (true);
CREATE POLICY held_keys_all ON held_keys TO sfp_dispatcher USING (true) WITH CHECK (true);
CREATE POLICY turns_all ON turns TO sfp_dispatcher USING (true) WITH CHECK (true);
CREATE POLICY schedules_all ON schedules TO sfp_dispatcher USING (true) WITH CHECK (true);
CREATE POLICY attempts_all ON attempts TO sfp_dispatcher USING (true) WITH CHECK (true);
CREATE POLICY artifacts_read ON artifacts FOR SELECT TO sfp_dispatcher USING (true);
CREATE POLICY channels_of_tasks ON channels FOR SELECT TO sfp_dispatcher USING (name LIKE 'task:%');  -- how far an attempt logged

-- The broker learns the team from the ticket, then acts inside it.
CREATE POLICY worker_tickets_presented ON worker_tickets TO sfp_broker
  USING (token_hash = presented_hash()) WITH CHECK (token_hash = presented_hash());
CREATE POLICY attempts_of_team ON attempts FOR SELECT TO sfp_broker USING (team_id = current_team());
CREATE POLICY tasks_of_team ON tasks FOR SELECT TO sfp_broker USING (team_id = current_team());
CREATE POLICY secrets_of_team ON secrets FOR SELECT TO sfp_broker USING (team_id = current_team());
CREATE POLICY leases_of_team ON leases FOR INSERT TO sfp_broker WITH CHECK (team_id = current_team());
CREATE POLICY audit_log_of_team ON audit_log FOR INSERT TO sfp_broker WITH CHECK (team_id = current_team());

CREATE POLICY events_relayed ON events FOR SELECT TO sfp_deliverer USING (true);
CREATE POLICY channels_relayed ON channels FOR SELECT TO sfp_deliverer USING (true);

-------------------------------------------------------------------------------------------------- grants

GRANT SELECT, INSERT, UPDATE, DELETE ON teams, users, memberships, sessions, refresh_tokens, login_attempts TO sfp_api;
GRANT SELECT, INSERT, UPDATE ON application_tokens TO sfp_api;
GRANT SELECT, INSERT, UPDATE ON channels TO sfp_api;
GRANT SELECT, INSERT ON events TO sfp_api;
GRANT UPDATE (data) ON events TO sfp_api;  -- deleted log lines keep their number
GRANT SELECT, INSERT ON tasks TO sfp_api;
GRANT UPDATE (status, reason, reason_detail, finished_at, cancel_requested_at, cancelled_by, error) ON tasks TO sfp_api;
GRANT SELECT ON attempts, queues, dispatchers, leases, held_keys TO sfp_api;
GRANT UPDATE ON queues TO sfp_api;
GRANT SELECT, INSERT, DELETE ON artifacts TO sfp_api;
GRANT SELECT, INSERT, UPDATE, DELETE ON idempotency_keys TO sfp_api;
GRANT SELECT, INSERT, DELETE, UPDATE (version, updated_at) ON secrets TO sfp_api;
GRANT SELECT, INSERT ON audit_log TO sfp_api;

GRANT SELECT, UPDATE ON queues TO sfp_dispatcher;
GRANT SELECT, INSERT, UPDATE, DELETE ON dispatchers TO sfp_dispatcher;
GRANT SELECT, INSERT ON tasks TO sfp_dispatcher;
GRANT UPDATE (status, reason, reason_detail, attempt, due_at, started_at, finished_at, progress, step, error, result,
              preemptions) ON tasks TO sfp_dispatcher;
GRANT SELECT, INSERT, DELETE ON held_keys TO sfp_dispatcher;
GRANT SELECT, INSERT, UPDATE ON turns TO sfp_dispatcher;
GRANT SELECT, UPDATE (next_at, runs, skipped, latest_run) ON schedules TO sfp_dispatcher;
GRANT SELECT, INSERT ON occurrences TO sfp_dispatcher;
GRANT SELECT, INSERT, UPDATE (next_at) ON schedules TO sfp_api;
GRANT SELECT, INSERT, UPDATE ON attempts, channels TO sfp_dispatcher;
GRANT SELECT, INSERT ON events, artifacts TO sfp_dispatcher;
GRANT SELECT, INSERT, DELETE ON worker_tickets TO sfp_dispatcher;
GRANT SELECT ON leases TO sfp_dispatcher;
GRANT UPDATE (ended_at) ON leases TO sfp_dispatcher;

GRANT SELECT, UPDATE (drawn_at, drawn_by) ON worker_tickets TO sfp_broker;
GRANT SELECT (task_id, attempt, team_id, status, lease_expires_at, dispatcher_id) ON attempts TO sfp_broker;
GRANT SELECT (id, enrolment) ON dispatchers TO sfp_broker;
GRANT SELECT (id, public_key) ON enrolments TO sfp_broker;
GRANT SELECT (id, name, slots, created_at) ON enrolments TO sfp_api, sfp_dispatcher;
GRANT SELECT (id, team_id, attempt, status, credentials, created_by) ON tasks TO sfp_broker;
GRANT SELECT (id, team_id, name, version) ON secrets TO sfp_broker;
GRANT INSERT ON leases, audit_log TO sfp_broker;

GRANT SELECT ON events, channels TO sfp_deliverer;

RESET ROLE;
RESET search_path;
