-- name: current_key
-- The key pair in use. No row: nothing was ever sealed.
SELECT version, public_key, mac
  FROM vault_keys
 ORDER BY version DESC
 LIMIT 1

-- name: add_key
INSERT INTO vault_keys (version, public_key, mac)
VALUES ($1, $2, $3)
    ON CONFLICT DO NOTHING

-- name: all_keys
-- Key pairs, and how much is sealed to each; in a transaction that says it is about every team.
SELECT version, public_key, mac, created_at,
       (SELECT count(*) FROM secret_versions WHERE key_version = vault_keys.version)
         + (SELECT count(*) FROM integrations WHERE key_version = vault_keys.version) AS sealed
  FROM vault_keys
 ORDER BY version

-- name: drop_key
-- Violates secret_versions_key or integrations_key while something is sealed to it; waits for whoever is sealing.
DELETE FROM vault_keys
 WHERE version = $1

-- name: about_every_team
SELECT set_config('sfp.every_team', 'on', true)

-- name: old_secrets
-- Secrets sealed to a key before $1, after the place ($2, $3), in order, with all that binds them.
SELECT secret_versions.team_id, secret_id AS row_id, secret_versions.version, name, reference IS NOT NULL AS is_reference,
       key_version, sealed_key
  FROM secret_versions
  JOIN secrets ON secrets.team_id = secret_versions.team_id AND secrets.id = secret_id
 WHERE key_version < $1
   AND (secret_id, secret_versions.version) > ($2, $3)
 ORDER BY secret_id, secret_versions.version
 LIMIT $4

-- name: rewrap_secret
-- No row touched: it was replaced or deleted meanwhile.
UPDATE secret_versions
   SET sealed_key = $5, key_version = $6
 WHERE team_id = $1
   AND secret_id = $2
   AND version = $3
   AND sealed_key = $4

-- name: old_integrations
-- The same of integrations; they have one version.
SELECT team_id, id AS row_id, 1 AS version, provider AS name, false AS is_reference, key_version, sealed_key
  FROM integrations
 WHERE key_version < $1
   AND (id, 1) > ($2, $3)
 ORDER BY id
 LIMIT $4

-- name: rewrap_integration
UPDATE integrations
   SET sealed_key = $5, key_version = $6
 WHERE team_id = $1
   AND id = $2
   AND $3 = 1
   AND sealed_key = $4
