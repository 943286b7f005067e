-- The audit trail is sealed: the auditor, the only process with the signing key, gives each entry its numbers and a
-- signature that covers the entries before it (decision 0020). Whoever writes an entry does so as before, in the
-- transaction of what it tells of, and waits for nobody.

SET lock_timeout = '5s';

DO $$
BEGIN
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'sfp_auditor') THEN
    CREATE ROLE sfp_auditor NOLOGIN NOINHERIT;
  END IF;
END $$;

SET ROLE sfp_migrator;
SET search_path = sfp;

GRANT USAGE ON SCHEMA sfp TO sfp_auditor;

-- The seal, as sfp_proof/chain.py describes it.
ALTER TABLE audit_log
  ADD COLUMN seq           bigint,
  ADD COLUMN team_seq      bigint,
  ADD COLUMN previous      bytea,
  ADD COLUMN team_previous bytea,
  ADD COLUMN sealed_at     timestamptz,
  ADD COLUMN key_id        text,
  ADD COLUMN attested      boolean,
  ADD COLUMN signature     bytea,
  ADD CONSTRAINT audit_log_sealed_whole
    CHECK (num_nulls(seq, team_seq, previous, team_previous, sealed_at, key_id, attested, signature) IN (0, 8)),
  ADD CONSTRAINT audit_log_counted CHECK (seq > 0 AND team_seq > 0);

-- The team of an entry without one, for an index that takes it as a team too.
CREATE FUNCTION audit_chain(of_team uuid) RETURNS uuid LANGUAGE sql IMMUTABLE PARALLEL SAFE
  AS $$ SELECT coalesce(of_team, '00000000-0000-0000-0000-000000000000') $$;
CREATE UNIQUE INDEX audit_log_by_seq ON audit_log (seq) WHERE seq IS NOT NULL;
CREATE UNIQUE INDEX audit_log_by_team_seq ON audit_log (audit_chain(team_id), team_seq) WHERE seq IS NOT NULL;
CREATE INDEX audit_log_unsealed ON audit_log (id) WHERE seq IS NULL;

-- Still append-only; the one change that there is gives an entry its seal, once.
DROP TRIGGER audit_log_append_only ON audit_log;
CREATE TRIGGER audit_log_never_deleted BEFORE DELETE ON audit_log FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER audit_log_sealed_once BEFORE UPDATE ON audit_log FOR EACH ROW
  WHEN (OLD.seq IS NOT NULL OR NEW.seq IS NULL
        OR (OLD.id, OLD.team_id, OLD.at, OLD.actor, OLD.action, OLD.subject, OLD.detail, OLD.request_id, OLD.tag)
           IS DISTINCT FROM
           (NEW.id, NEW.team_id, NEW.at, NEW.actor, NEW.action, NEW.subject, NEW.detail, NEW.request_id, NEW.tag))
  EXECUTE FUNCTION refuse_change();

CREATE FUNCTION audit_written() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_notify('sfp_audit', '');
  RETURN NULL;
END $$;
CREATE TRIGGER audit_log_written AFTER INSERT ON audit_log FOR EACH STATEMENT EXECUTE FUNCTION audit_written();

-- A lease of a credential needs a trail that is being sealed: when entries have waited for ten minutes, none is given.
-- The error is one of those after which the broker tries again.
CREATE FUNCTION audit_is_sealed() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = sfp, pg_temp AS $$
BEGIN
  IF (SELECT at FROM audit_log WHERE seq IS NULL ORDER BY id LIMIT 1) < clock_timestamp() - interval '10 minutes' THEN
    RAISE EXCEPTION 'the audit trail has not been sealed for ten minutes' USING ERRCODE = 'lock_not_available';
  END IF;
  RETURN NEW;
END $$;
REVOKE ALL ON FUNCTION audit_is_sealed() FROM PUBLIC;
CREATE TRIGGER audit_log_lease_needs_seals BEFORE INSERT ON audit_log FOR EACH ROW
  WHEN (NEW.action = 'credential.lease') EXECUTE FUNCTION audit_is_sealed();
CREATE POLICY audit_log_age ON audit_log FOR SELECT TO sfp_migrator USING (seq IS NULL);

-- Sign-ins happen before there is a team: a team reads those of its own people.
CREATE POLICY audit_log_of_own_people ON audit_log FOR SELECT TO sfp_api
  USING (team_id IS NULL
         AND EXISTS (SELECT FROM memberships
                      WHERE memberships.team_id = current_team()
                        AND memberships.created_at <= audit_log.at  -- not what people did before they came
                        AND 'user:' || memberships.user_id IN (actor, subject)));
-- (both halves of the list are found in the order of their ids)
CREATE INDEX audit_log_without_team ON audit_log (id) WHERE team_id IS NULL;

-- Nobody but the auditor writes a seal, and nobody chooses an entry's time or number.
REVOKE INSERT ON audit_log FROM sfp_api, sfp_broker;
GRANT INSERT (team_id, actor, action, subject, detail, request_id, tag) ON audit_log TO sfp_api, sfp_broker;
GRANT SELECT, UPDATE (seq, team_seq, previous, team_previous, sealed_at, key_id, attested, signature)
  ON audit_log TO sfp_auditor;
CREATE POLICY audit_log_read_by_auditor ON audit_log FOR SELECT TO sfp_auditor USING (true);
CREATE POLICY audit_log_sealed_by_auditor ON audit_log FOR UPDATE TO sfp_auditor USING (seq IS NULL) WITH CHECK (true);

-- What receipts are made of, one team at a time.
GRANT SELECT ON tasks, attempts, leases, artifacts TO sfp_auditor;
GRANT SELECT (id, name, version, toolchains) ON dispatchers TO sfp_auditor;
GRANT SELECT (id, slug) ON teams TO sfp_auditor;
DO $$
DECLARE
  name text;
BEGIN
  FOREACH name IN ARRAY ARRAY['tasks', 'attempts', 'leases', 'artifacts'] LOOP
    EXECUTE format('CREATE POLICY %I ON %I FOR SELECT TO sfp_auditor USING (team_id = current_team())', name || '_of_receipt', name);
  END LOOP;
END $$;
CREATE POLICY dispatchers_of_receipt ON dispatchers FOR SELECT TO sfp_auditor USING (true);
CREATE POLICY teams_of_receipt ON teams FOR SELECT TO sfp_auditor USING (id = current_team());

RESET ROLE;
RESET search_path;
