-- The vault: sealed values with their versions, the public keys they are sealed to, integrations and projects.

SET lock_timeout = '5s';
SET ROLE sfp_migrator;
SET search_path = sfp;

-- The public halves of the vault's key pairs; the API seals to the highest version. `mac` is made with a key that is not
-- in the database, so that nobody who writes here can have values sealed to a key of their own. What is sealed refers to its
-- key: one that something still needs cannot be deleted, and a deletion waits for whoever is sealing.
-- (No team: the keys are the instance's. Everybody who may seal sees them.)
CREATE TABLE vault_keys (
  version    int PRIMARY KEY CONSTRAINT vault_keys_version CHECK (version > 0),
  public_key bytea NOT NULL,
  mac        bytea NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now()
);

-- Every version of a secret. Its value stands in the row of `value_of`: its own, or that of the version it restores.
-- `reference` says where the value is elsewhere; the broker goes by what is sealed, this is for people.
CREATE TABLE secret_versions (
  team_id     uuid NOT NULL,
  secret_id   uuid NOT NULL,
  version     int NOT NULL CONSTRAINT secret_versions_version CHECK (version > 0),
  value_of    int NOT NULL,
  reference   jsonb,
  key_version int CONSTRAINT secret_versions_key REFERENCES vault_keys,
  sealed_key  bytea,
  ciphertext  bytea,
  created_by  text NOT NULL,
  created_at  timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (team_id, secret_id, version),
  FOREIGN KEY (team_id, secret_id) REFERENCES secrets (team_id, id) ON DELETE CASCADE,
  FOREIGN KEY (team_id, secret_id, value_of) REFERENCES secret_versions (team_id, secret_id, version),
  CONSTRAINT secret_versions_sealed CHECK (num_nulls(key_version, sealed_key, ciphertext) =
                                           CASE WHEN value_of = version THEN 0 ELSE 3 END)
);
CREATE INDEX secret_versions_by_key ON secret_versions (key_version) WHERE key_version IS NOT NULL;

-- A repository that the team works on; what it is called in requests.
CREATE TABLE projects (
  id         uuid PRIMARY KEY DEFAULT uuid7(),
  team_id    uuid NOT NULL REFERENCES teams ON DELETE CASCADE,
  identifier text NOT NULL CONSTRAINT projects_identifier CHECK (identifier ~ '^[A-Za-z0-9][A-Za-z0-9._/-]{0,199}$'),
  remote_url text NOT NULL,
  version    int NOT NULL DEFAULT 1,
  created_by text NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now(),
  UNIQUE (team_id, id),
  CONSTRAINT projects_identifier_unique UNIQUE (team_id, identifier)
);

-- A connected provider; its credentials are sealed as one JSON object.
CREATE TABLE integrations (
  id          uuid PRIMARY KEY DEFAULT uuid7(),
  team_id     uuid NOT NULL REFERENCES teams ON DELETE CASCADE,
  provider    text NOT NULL CONSTRAINT integrations_provider CHECK (provider ~ '^[a-z][a-z0-9-]{0,62}$'),
  auth_type   text NOT NULL,
  is_global   boolean NOT NULL,
  config      jsonb NOT NULL DEFAULT '{}',
  key_version int NOT NULL CONSTRAINT integrations_key REFERENCES vault_keys,
  sealed_key  bytea NOT NULL,
  ciphertext  bytea NOT NULL,
  created_by  text NOT NULL,
  created_at  timestamptz NOT NULL DEFAULT now(),
  UNIQUE (team_id, id),
  UNIQUE (team_id, id, provider)
);
CREATE UNIQUE INDEX integrations_one_global ON integrations (team_id, provider) WHERE is_global;
CREATE INDEX integrations_by_key ON integrations (key_version);

-- Which projects an integration is for; a project has one of each provider.
CREATE TABLE integration_projects (
  team_id        uuid NOT NULL,
  project_id     uuid NOT NULL,
  provider       text NOT NULL,
  integration_id uuid NOT NULL,
  CONSTRAINT integration_projects_once PRIMARY KEY (team_id, project_id, provider),
  FOREIGN KEY (team_id, project_id) REFERENCES projects (team_id, id) ON DELETE CASCADE,
  FOREIGN KEY (team_id, integration_id, provider) REFERENCES integrations (team_id, id, provider) ON DELETE CASCADE
);
CREATE INDEX integration_projects_by_integration ON integration_projects (team_id, integration_id);

DO $$
DECLARE
  name text;
BEGIN
  FOREACH name IN ARRAY ARRAY['vault_keys', 'secret_versions', 'projects', 'integrations', 'integration_projects'] LOOP
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
    EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
  END LOOP;
  FOREACH name IN ARRAY ARRAY['secret_versions', 'projects', 'integrations', 'integration_projects'] LOOP
    EXECUTE format('CREATE POLICY %I ON %I TO sfp_api USING (team_id = current_team()) WITH CHECK (team_id = current_team())',
                   name || '_of_own_team', name);
    EXECUTE format('CREATE POLICY %I ON %I FOR SELECT TO sfp_broker USING (team_id = current_team())',
                   name || '_of_served_team', name);
  END LOOP;
  -- Sealing keys anew and giving leases back is done for all teams. The broker says so in those transactions, and in no
  -- other: what it looks up for a task stays inside the task's team.
  CREATE POLICY secrets_of_every_team ON secrets FOR SELECT TO sfp_broker
    USING (current_setting('sfp.every_team', true) = 'on');
  FOREACH name IN ARRAY ARRAY['secret_versions', 'integrations', 'leases'] LOOP
    EXECUTE format('CREATE POLICY %I ON %I FOR SELECT TO sfp_broker USING (current_setting(''sfp.every_team'', true) = ''on'')',
                   name || '_of_every_team', name);
    EXECUTE format('CREATE POLICY %I ON %I FOR UPDATE TO sfp_broker USING (current_setting(''sfp.every_team'', true) = ''on'')',
                   name || '_kept_up', name);
  END LOOP;
END $$;

CREATE POLICY vault_keys_seen ON vault_keys FOR SELECT TO sfp_api USING (true);
CREATE POLICY vault_keys_first ON vault_keys FOR INSERT TO sfp_api WITH CHECK (version = 1);
CREATE POLICY vault_keys_kept ON vault_keys TO sfp_broker USING (true) WITH CHECK (true);
-- A rotation that the operator asks for belongs to no team.
CREATE POLICY audit_log_of_operator ON audit_log FOR INSERT TO sfp_broker WITH CHECK (team_id IS NULL);

GRANT SELECT, INSERT ON vault_keys TO sfp_api;
GRANT SELECT, INSERT, DELETE ON vault_keys TO sfp_broker;
-- What is sealed can be stored and deleted, but not read back: no SELECT on it.
GRANT SELECT (team_id, secret_id, version, value_of, reference, key_version, created_by, created_at), INSERT, DELETE
   ON secret_versions TO sfp_api;
GRANT SELECT, INSERT, UPDATE (remote_url, version, updated_at), DELETE ON projects TO sfp_api;
GRANT SELECT (id, team_id, provider, auth_type, is_global, config, key_version, created_by, created_at), INSERT, DELETE
   ON integrations TO sfp_api;
GRANT SELECT, INSERT ON integration_projects TO sfp_api;

GRANT SELECT ON secret_versions, projects, integrations, integration_projects TO sfp_broker;
GRANT UPDATE (sealed_key, key_version) ON secret_versions, integrations TO sfp_broker;
GRANT SELECT (id, team_id, source, source_id, ended_at, revoked_at), UPDATE (revoked_at) ON leases TO sfp_broker;

-- The broker hears of leases that are to be given back at their source.
CREATE FUNCTION leases_ended() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_notify('sfp_leases', '');
  RETURN NULL;
END $$;
CREATE TRIGGER leases_ended AFTER UPDATE OF ended_at ON leases FOR EACH ROW
  WHEN (NEW.ended_at IS NOT NULL AND NEW.source_id IS NOT NULL) EXECUTE FUNCTION leases_ended();

RESET ROLE;
RESET search_path;
