-- What `doctor --security` asks the database, as its owner.

-- name: facts
-- Always one row. $1: days that a token may live yet; $2: days after which an owner counts as absent; $3: how many scopes
-- are all; $4: who may sign in with a password (auth.passwordLogin).
WITH live AS (
  SELECT * FROM sfp.application_tokens WHERE revoked_at IS NULL AND expires_at > now()
), owners AS (
  SELECT u.* FROM sfp.users u
   WHERE u.disabled_at IS NULL AND EXISTS (SELECT FROM sfp.memberships m WHERE m.user_id = u.id AND m.role = 'owner')
)
SELECT (SELECT count(*) FROM live WHERE expires_at > now() + make_interval(days => $1)) AS long_tokens,
       (SELECT count(*) FROM live WHERE cardinality(scopes) >= $3) AS mighty_tokens,
       (SELECT count(*) FROM live
         WHERE coalesce(jsonb_array_length(to_jsonb(live) -> 'allowed_addresses'), 0) = 0) AS roaming_tokens,
       (SELECT count(*) FROM owners o
         WHERE o.created_at < now() - make_interval(days => $2)
           AND NOT EXISTS (SELECT FROM sfp.sessions s
                            WHERE s.user_id = o.id AND s.last_used_at > now() - make_interval(days => $2))
       ) AS absent_owners,
       (SELECT count(*) FROM sfp.users u
         WHERE u.password_hash IS NOT NULL AND u.disabled_at IS NULL
           AND ($4 = 'everyone' OR ($4 <> 'off' AND u.id IN (SELECT id FROM owners)))
           AND EXISTS (SELECT FROM sfp.identity_providers p WHERE p.enabled)) AS passwords
