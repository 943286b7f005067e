-- Limits of guessing, sessions, application tokens, and the exchange of CI tokens.

SET lock_timeout = '5s';
SET ROLE sfp_migrator;
SET search_path = sfp;

-- How long one waits after the last of so many failures: `free` ones cost nothing, then `first` seconds, doubled by each
-- further failure up to `longest`.
CREATE FUNCTION wait_after(failures int, free int, first int, longest int) RETURNS interval LANGUAGE sql IMMUTABLE AS $$
  SELECT make_interval(secs => CASE WHEN failures < free THEN 0
                                    ELSE least(longest, first * power(2, least(30, failures - free))) END)
$$;

--------------------------------------------------------------------------------------- application tokens

ALTER TABLE application_tokens
  -- empty: it may come from anywhere
  ADD COLUMN allowed_addresses cidr[] NOT NULL DEFAULT '{}',
  ADD COLUMN last_used_address text,
  -- how much of its end was told as events: 1: within a week, 2: within a day, 3: it has expired
  ADD COLUMN told smallint NOT NULL DEFAULT 0 CONSTRAINT application_tokens_told CHECK (told BETWEEN 0 AND 3),
  -- made by the exchange of a CI system's token: lives for minutes, is not told of, and removed a day later
  ADD COLUMN from_ci boolean NOT NULL DEFAULT false;
CREATE INDEX application_tokens_to_tell ON application_tokens (expires_at) WHERE told < 3 AND revoked_at IS NULL;

-- The dispatcher's clock tells of their end; it sees no hash and changes nothing else.
CREATE POLICY application_tokens_watched ON application_tokens FOR SELECT TO sfp_dispatcher USING (true);
CREATE POLICY application_tokens_told ON application_tokens FOR UPDATE TO sfp_dispatcher
  USING (team_id = current_team()) WITH CHECK (team_id = current_team());
GRANT SELECT (id, team_id, name, expires_at, revoked_at, told), UPDATE (told) ON application_tokens TO sfp_dispatcher;

-- Nothing is deleted but what the exchange made and nobody could use for a day.
GRANT DELETE ON application_tokens TO sfp_api;
CREATE POLICY application_tokens_swept ON application_tokens AS RESTRICTIVE FOR DELETE TO sfp_api
  USING (from_ci AND expires_at < now() - interval '1 day');

----------------------------------------------------------------------------------------------- trust rules

-- Which tokens of which CI systems are exchanged for what: made by owners.
CREATE TABLE oidc_trust (
  id          uuid PRIMARY KEY DEFAULT uuid7(),
  team_id     uuid NOT NULL REFERENCES teams ON DELETE CASCADE,
  name        text NOT NULL CONSTRAINT oidc_trust_name CHECK (length(name) BETWEEN 1 AND 200),
  issuer      text NOT NULL,
  -- SHA-256 of the issuer: who shows a token of it finds the rule
  issuer_hash bytea NOT NULL,
  audience    text NOT NULL,
  -- claim → what it must be; `*` stands for anything but nothing
  claims      jsonb NOT NULL,
  scopes      text[] NOT NULL,
  ttl_seconds int NOT NULL CONSTRAINT oidc_trust_ttl CHECK (ttl_seconds BETWEEN 60 AND 900),
  single_use  boolean NOT NULL DEFAULT false,
  created_by  text NOT NULL,
  created_at  timestamptz NOT NULL DEFAULT now(),
  UNIQUE (team_id, id),
  CONSTRAINT oidc_trust_once UNIQUE (team_id, name)
);
CREATE INDEX oidc_trust_by_issuer ON oidc_trust (issuer_hash, id);

-- Tokens that a rule takes once, until they have expired.
CREATE TABLE oidc_uses (
  team_id    uuid NOT NULL,
  trust_id   uuid NOT NULL,
  token_hash bytea NOT NULL,
  expires_at timestamptz NOT NULL,
  CONSTRAINT oidc_uses_once PRIMARY KEY (trust_id, token_hash),
  FOREIGN KEY (team_id, trust_id) REFERENCES oidc_trust (team_id, id) ON DELETE CASCADE
);

ALTER TABLE oidc_trust ENABLE ROW LEVEL SECURITY;
ALTER TABLE oidc_trust FORCE ROW LEVEL SECURITY;
ALTER TABLE oidc_uses ENABLE ROW LEVEL SECURITY;
ALTER TABLE oidc_uses FORCE ROW LEVEL SECURITY;
CREATE POLICY oidc_trust_of_own_team ON oidc_trust TO sfp_api
  USING (team_id = current_team()) WITH CHECK (team_id = current_team());
-- Before there is a team: whoever shows a token of an issuer finds the rules that name it.
CREATE POLICY oidc_trust_presented ON oidc_trust FOR SELECT TO sfp_api USING (issuer_hash = presented_hash());
CREATE POLICY oidc_uses_of_own_team ON oidc_uses TO sfp_api
  USING (team_id = current_team()) WITH CHECK (team_id = current_team());
GRANT SELECT, INSERT, DELETE ON oidc_trust, oidc_uses TO sfp_api;

RESET ROLE;
RESET search_path;
