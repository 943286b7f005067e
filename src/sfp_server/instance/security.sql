-- What `doctor --security` asks the database, as its owner.

-- name: facts
-- $1: days that a token may live yet, $2: days after which an owner counts as absent. Always one row.
WITH live AS (
  SELECT * FROM sfp.application_tokens WHERE revoked_at IS NULL AND expires_at > now()
), most AS (
  SELECT max(cardinality(scopes)) AS scopes FROM live
)
SELECT (SELECT count(*) FROM live WHERE expires_at > now() + make_interval(days => $1)) AS long_tokens,
       (SELECT count(*) FROM live WHERE cardinality(scopes) >= $3) AS mighty_tokens,
       0 AS roaming_tokens,
       (SELECT count(DISTINCT m.user_id)
          FROM sfp.memberships m JOIN sfp.users u ON u.id = m.user_id
         WHERE m.role = 'owner' AND u.disabled_at IS NULL AND u.created_at < now() - make_interval(days => $2)
           AND NOT EXISTS (SELECT FROM sfp.sessions s
                            WHERE s.user_id = m.user_id AND s.last_used_at > now() - make_interval(days => $2))
       ) AS absent_owners,
       (SELECT count(*) FROM sfp.users u
         WHERE u.password_hash IS NOT NULL AND u.disabled_at IS NULL
           AND EXISTS (SELECT FROM sfp.identity_providers p WHERE p.enabled)) AS passwords
