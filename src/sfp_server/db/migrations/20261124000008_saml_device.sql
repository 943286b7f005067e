-- Signing in on a machine without a browser (RFC 8628), and what SAML must remember. Nothing here belongs to a team: both are
-- about users, who are the instance's.

SET lock_timeout = '5s';
SET ROLE sfp_migrator;
SET search_path = sfp;

----------------------------------------------------------------------------------------------------- device flow

-- A device that waits for a user's consent. Neither the code that it polls with nor the one that its user types is stored.
-- (The typed one is short: whoever reads the database can find it, as long as it lives. It opens nothing: a signed-in
-- user says yes to it.)
CREATE TABLE device_codes (
  id               uuid PRIMARY KEY DEFAULT uuid7(),
  device_hash      bytea NOT NULL CONSTRAINT device_codes_device_unique UNIQUE,
  user_hash        bytea NOT NULL CONSTRAINT device_codes_user_unique UNIQUE,
  -- who asks, for the user to recognize: what the device says of itself, and where it is
  client           text NOT NULL DEFAULT '',
  address          text NOT NULL DEFAULT '',
  created_at       timestamptz NOT NULL DEFAULT now(),
  expires_at       timestamptz NOT NULL,
  interval_seconds int NOT NULL,
  polled_at        timestamptz,
  decided_at       timestamptz,
  decided_by       uuid REFERENCES users ON DELETE CASCADE,
  is_approved      boolean,
  used_at          timestamptz,
  CONSTRAINT device_codes_decision_whole CHECK ((decided_at IS NULL) = (decided_by IS NULL) AND (decided_at IS NULL) = (is_approved IS NULL)),
  CONSTRAINT device_codes_use_approved CHECK (used_at IS NULL OR is_approved)
);
CREATE INDEX device_codes_by_age ON device_codes (expires_at);
CREATE INDEX device_codes_by_address ON device_codes (address, expires_at);

ALTER TABLE device_codes ENABLE ROW LEVEL SECURITY;
ALTER TABLE device_codes FORCE ROW LEVEL SECURITY;

-- Who presents one of the two codes sees the row; anybody may clear away what expired long ago.
CREATE POLICY device_codes_made ON device_codes FOR INSERT TO sfp_api WITH CHECK (device_hash = presented_hash());
CREATE POLICY device_codes_presented ON device_codes FOR SELECT TO sfp_api
  USING (presented_hash() IN (device_hash, user_hash));
CREATE POLICY device_codes_changed ON device_codes FOR UPDATE TO sfp_api
  USING (presented_hash() IN (device_hash, user_hash)) WITH CHECK (presented_hash() IN (device_hash, user_hash));
CREATE POLICY device_codes_aged ON device_codes FOR SELECT TO sfp_api USING (expires_at < now() - interval '1 hour');
CREATE POLICY device_codes_cleared ON device_codes FOR DELETE TO sfp_api USING (expires_at < now() - interval '1 hour');

-- How many devices of an address wait, without a look at them.
CREATE POLICY device_codes_counted ON device_codes FOR SELECT TO sfp_migrator USING (true);
CREATE FUNCTION devices_waiting(of_address text) RETURNS bigint
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = sfp, pg_temp AS $$
  SELECT count(*) FROM device_codes WHERE address = of_address AND expires_at > now() AND decided_at IS NULL
$$;
REVOKE ALL ON FUNCTION devices_waiting(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION devices_waiting(text) TO sfp_api;

GRANT SELECT, INSERT, DELETE, UPDATE (polled_at, interval_seconds, decided_at, decided_by, is_approved, used_at) ON device_codes TO sfp_api;

------------------------------------------------------------------------------------------------------------ SAML

-- Assertions that were taken, until they have expired anyway: none is taken twice. The hash is of provider and id.
CREATE TABLE saml_assertions (
  assertion_hash bytea PRIMARY KEY,
  provider_id    uuid NOT NULL REFERENCES identity_providers ON DELETE CASCADE,
  taken_at       timestamptz NOT NULL DEFAULT now(),
  expires_at     timestamptz NOT NULL
);
CREATE INDEX saml_assertions_by_age ON saml_assertions (expires_at);
CREATE INDEX saml_assertions_by_provider ON saml_assertions (provider_id);

-- What was last fetched from a provider's metadata URL. Written on behalf of whoever signs in, so the API may write any row;
-- what decides who the provider is (its entityID and its URL) is in `identity_providers`, which only administrators change.
CREATE TABLE saml_metadata (
  provider_id uuid PRIMARY KEY REFERENCES identity_providers ON DELETE CASCADE,
  -- NULL: not fetched yet
  facts       jsonb,
  fetched_at  timestamptz,
  tried_at    timestamptz NOT NULL DEFAULT now()
);

ALTER TABLE saml_assertions ENABLE ROW LEVEL SECURITY;
ALTER TABLE saml_assertions FORCE ROW LEVEL SECURITY;
ALTER TABLE saml_metadata ENABLE ROW LEVEL SECURITY;
ALTER TABLE saml_metadata FORCE ROW LEVEL SECURITY;

CREATE POLICY saml_assertions_taken ON saml_assertions FOR INSERT TO sfp_api WITH CHECK (assertion_hash = presented_hash());
CREATE POLICY saml_assertions_aged ON saml_assertions FOR SELECT TO sfp_api USING (expires_at < now());
CREATE POLICY saml_assertions_cleared ON saml_assertions FOR DELETE TO sfp_api USING (expires_at < now());
CREATE POLICY saml_metadata_read ON saml_metadata FOR SELECT TO sfp_api USING (true);
CREATE POLICY saml_metadata_claimed ON saml_metadata FOR INSERT TO sfp_api WITH CHECK (true);
CREATE POLICY saml_metadata_refreshed ON saml_metadata FOR UPDATE TO sfp_api USING (true) WITH CHECK (true);

GRANT SELECT, INSERT, DELETE ON saml_assertions TO sfp_api;
GRANT SELECT, INSERT, UPDATE (facts, fetched_at, tried_at) ON saml_metadata TO sfp_api;

RESET ROLE;
RESET search_path;
