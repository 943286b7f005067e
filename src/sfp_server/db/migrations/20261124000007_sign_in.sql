-- Signing in through identity providers: which there are, whom they have vouched for, sign-ins under way, and the
-- cookies of browsers. Nothing here belongs to a team: providers speak for users, and users are the instance's.

SET lock_timeout = '5s';
SET ROLE sfp_migrator;
SET search_path = sfp;

------------------------------------------------------------------------------------ who administers the instance

-- The owners of the oldest team. A provider vouches for people of every team, so not every owner may make one: whoever
-- owned just another team could let themselves be anybody.
CREATE FUNCTION administers_instance() RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = sfp, pg_temp AS $$
  SELECT EXISTS (
    SELECT FROM memberships
     WHERE user_id = current_user_id()
       AND role = 'owner'
       AND team_id = current_team()
       AND team_id = (SELECT id FROM teams ORDER BY created_at, id LIMIT 1))
$$;
REVOKE ALL ON FUNCTION administers_instance() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION administers_instance() TO sfp_api;

---------------------------------------------------------------------------------------------------------- tables

CREATE TABLE identity_providers (
  id              uuid PRIMARY KEY DEFAULT uuid7(),
  slug            text NOT NULL CONSTRAINT identity_providers_slug_unique UNIQUE
                  CONSTRAINT identity_providers_slug_form CHECK (slug ~ '^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$'),
  name            text NOT NULL,
  kind            text NOT NULL CONSTRAINT identity_providers_kind CHECK (kind IN ('oidc', 'github', 'saml')),
  -- what its kind needs; no secret
  config          jsonb NOT NULL,
  -- the client secret, sealed with a key that is in no database
  sealed_secret   bytea,
  -- e-mail domains it may speak for; none: any
  domains         text[] NOT NULL DEFAULT '{}',
  create_users    boolean NOT NULL DEFAULT false,
  -- true: it may also vouch, by e-mail address, for users whom another provider has vouched for
  shares_users    boolean NOT NULL DEFAULT false,
  default_team_id uuid REFERENCES teams ON DELETE SET NULL,
  default_role    text NOT NULL DEFAULT 'member' CONSTRAINT identity_providers_role CHECK (default_role IN ('member', 'owner')),
  enabled         boolean NOT NULL DEFAULT true,
  created_by      text NOT NULL,
  created_at      timestamptz NOT NULL DEFAULT now(),
  updated_at      timestamptz NOT NULL DEFAULT now(),
  -- else everybody with an account there would be a user here
  CONSTRAINT identity_providers_create_for_domains CHECK (NOT create_users OR cardinality(domains) > 0)
);

-- Whom a provider calls what. The subject is the provider's own unchanging name for a person.
CREATE TABLE identities (
  id           uuid PRIMARY KEY DEFAULT uuid7(),
  provider_id  uuid NOT NULL REFERENCES identity_providers ON DELETE CASCADE,
  subject      text NOT NULL,
  user_id      uuid NOT NULL REFERENCES users ON DELETE CASCADE,
  email        text NOT NULL,
  created_at   timestamptz NOT NULL DEFAULT now(),
  last_used_at timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT identities_subject_unique UNIQUE (provider_id, subject),
  CONSTRAINT identities_one_per_user UNIQUE (provider_id, user_id)
);
CREATE INDEX identities_by_user ON identities (user_id);

-- A sign-in under way: from the moment that the browser is sent to the provider until it comes back.
CREATE TABLE sign_in_flows (
  id               uuid PRIMARY KEY DEFAULT uuid7(),
  -- of the state
  token_hash       bytea NOT NULL CONSTRAINT sign_in_flows_state_unique UNIQUE,
  -- of the cookie of the browser that began it
  browser_hash     bytea NOT NULL,
  provider_id      uuid NOT NULL REFERENCES identity_providers ON DELETE CASCADE,
  -- the id of what we sent to the provider, where its answer names that (SAML)
  request_id       text,
  -- where a client gets its code; NULL: the browser itself signs in
  redirect_to      text,
  client_state     text,
  client_challenge text,
  -- where the browser goes on, a path of this server
  continue_to      text,
  address          text NOT NULL DEFAULT '',
  created_at       timestamptz NOT NULL DEFAULT now(),
  expires_at       timestamptz NOT NULL,
  used_at          timestamptz,
  CONSTRAINT sign_in_flows_client_proves CHECK ((redirect_to IS NULL) = (client_challenge IS NULL))
);
CREATE INDEX sign_in_flows_by_age ON sign_in_flows (expires_at);
CREATE INDEX sign_in_flows_by_address ON sign_in_flows (address, expires_at);

-- Codes that clients exchange for tokens. The session is the one that the code opened: a second use ends it.
CREATE TABLE authorization_codes (
  token_hash       bytea PRIMARY KEY,
  user_id          uuid NOT NULL REFERENCES users ON DELETE CASCADE,
  redirect_to      text NOT NULL,
  client_challenge text NOT NULL,
  via              text NOT NULL,
  created_at       timestamptz NOT NULL DEFAULT now(),
  expires_at       timestamptz NOT NULL,
  used_at          timestamptz,
  session_id       uuid REFERENCES sessions ON DELETE SET NULL
);
CREATE INDEX authorization_codes_by_age ON authorization_codes (expires_at);

-- Cookies of signed-in browsers; each stands for a session.
CREATE TABLE browser_cookies (
  token_hash bytea PRIMARY KEY,
  session_id uuid NOT NULL REFERENCES sessions ON DELETE CASCADE,
  created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX browser_cookies_by_session ON browser_cookies (session_id);

---------------------------------------------------------------------------------------------- row-level security

DO $$
DECLARE
  name text;
BEGIN
  FOREACH name IN ARRAY ARRAY['identity_providers', 'identities', 'sign_in_flows', 'authorization_codes', 'browser_cookies'] LOOP
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
    EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
  END LOOP;
END $$;

-- Strangers sign in through them, so the API must find them for anybody; only administrators change them.
CREATE POLICY identity_providers_found ON identity_providers FOR SELECT TO sfp_api USING (true);
CREATE POLICY identity_providers_made ON identity_providers FOR INSERT TO sfp_api WITH CHECK (administers_instance());
CREATE POLICY identity_providers_changed ON identity_providers FOR UPDATE TO sfp_api
  USING (administers_instance()) WITH CHECK (administers_instance());
CREATE POLICY identity_providers_removed ON identity_providers FOR DELETE TO sfp_api USING (administers_instance());

-- Found by what the provider says, before there is an actor.
CREATE POLICY identities_found ON identities FOR SELECT TO sfp_api USING (true);
CREATE POLICY identities_linked ON identities FOR INSERT TO sfp_api WITH CHECK (user_id = current_user_id());
CREATE POLICY identities_used ON identities FOR UPDATE TO sfp_api
  USING (user_id = current_user_id()) WITH CHECK (user_id = current_user_id());

-- Who presents the secret sees the row; anybody may clear away what has expired.
CREATE POLICY sign_in_flows_presented ON sign_in_flows TO sfp_api
  USING (token_hash = presented_hash()) WITH CHECK (token_hash = presented_hash());
CREATE POLICY sign_in_flows_expired ON sign_in_flows FOR DELETE TO sfp_api USING (expires_at < now());
CREATE POLICY sign_in_flows_aged ON sign_in_flows FOR SELECT TO sfp_api USING (expires_at < now());
-- How many of an address are under way, without a look at them.
CREATE POLICY sign_in_flows_counted ON sign_in_flows FOR SELECT TO sfp_migrator USING (true);
CREATE FUNCTION flows_under_way(of_address text) RETURNS bigint
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = sfp, pg_temp AS $$
  SELECT count(*) FROM sign_in_flows WHERE address = of_address AND expires_at > now() AND used_at IS NULL
$$;
REVOKE ALL ON FUNCTION flows_under_way(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION flows_under_way(text) TO sfp_api;
CREATE POLICY authorization_codes_presented ON authorization_codes TO sfp_api
  USING (token_hash = presented_hash()) WITH CHECK (token_hash = presented_hash());
CREATE POLICY authorization_codes_expired ON authorization_codes FOR DELETE TO sfp_api USING (expires_at < now());
CREATE POLICY authorization_codes_aged ON authorization_codes FOR SELECT TO sfp_api USING (expires_at < now());
CREATE POLICY browser_cookies_presented ON browser_cookies TO sfp_api
  USING (token_hash = presented_hash()) WITH CHECK (token_hash = presented_hash());

GRANT SELECT, INSERT, DELETE,
      UPDATE (name, config, sealed_secret, domains, create_users, shares_users, default_team_id, default_role, enabled, updated_at)
      ON identity_providers TO sfp_api;
GRANT SELECT, INSERT, UPDATE (last_used_at, email) ON identities TO sfp_api;
GRANT SELECT, INSERT, DELETE, UPDATE (used_at) ON sign_in_flows TO sfp_api;
GRANT SELECT, INSERT, DELETE, UPDATE (used_at, session_id) ON authorization_codes TO sfp_api;
GRANT SELECT, INSERT, DELETE ON browser_cookies TO sfp_api;

RESET ROLE;
RESET search_path;
