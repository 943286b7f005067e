-- name: add_rule
INSERT INTO oidc_trust (team_id, name, issuer, audience, claims, scopes, ttl_seconds, single_use, created_by, issuer_hash)
VALUES (current_team(), $1, $2, $3, $4, $5, $6, $7, $8, $9)
RETURNING id, name, issuer, audience, claims, scopes, ttl_seconds, single_use, created_by, created_at;

-- name: list_rules
SELECT id, name, issuer, audience, claims, scopes, ttl_seconds, single_use, created_by, created_at
  FROM oidc_trust
 WHERE team_id = current_team()
   AND ($1::uuid IS NULL OR id < $1)
 ORDER BY id DESC
 LIMIT $2;

-- name: drop_rule
-- No row: unknown, or another team's.
DELETE FROM oidc_trust
 WHERE id = $1
   AND team_id = current_team()
RETURNING name;

-- name: revoke_tokens_of_rule
-- What the rule gave lives for minutes, but not beyond the rule.
UPDATE application_tokens
   SET revoked_at = now()
 WHERE team_id = current_team()
   AND from_ci
   AND created_by_name = $1
   AND revoked_at IS NULL
   AND expires_at > now();

-- name: rules_of_issuer
-- The rules of all teams that name the issuer whose hash this transaction presents, oldest first.
SELECT o.id, o.team_id, o.name, o.issuer, o.audience, o.claims, o.scopes, o.ttl_seconds, o.single_use
  FROM oidc_trust o
 WHERE o.issuer_hash = presented_hash()
 ORDER BY o.id;

-- name: slug_of_team
SELECT slug
  FROM teams
 WHERE id = current_team();

-- name: use_once
-- No row: the rule has taken this token before. Some expired ones are removed on the way.
WITH old AS (
  DELETE FROM oidc_uses
   WHERE (trust_id, token_hash) IN (
           SELECT trust_id, token_hash
             FROM oidc_uses
            WHERE team_id = current_team()
              AND expires_at < now()
            LIMIT 20)
)
INSERT INTO oidc_uses (team_id, trust_id, token_hash, expires_at)
VALUES (current_team(), $1, $2, to_timestamp($3))
ON CONFLICT (trust_id, token_hash) DO NOTHING
RETURNING trust_id;
