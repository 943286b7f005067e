-- name: lock_secret
-- Identity of a secret, for its next version. No row: there is none of that name in the team.
SELECT id, version
  FROM secrets
 WHERE name = $1
   FOR NO KEY UPDATE

-- name: add_secret
-- A first version. Violates secrets_name_unique when another request was faster.
INSERT INTO secrets (team_id, name, version, created_by)
VALUES (current_team(), $1, 1, $2)
RETURNING id

-- name: raise_version
UPDATE secrets
   SET version = version + 1, updated_at = now()
 WHERE id = $1

-- name: add_version
INSERT INTO secret_versions (team_id, secret_id, version, value_of, reference, key_version, sealed_key, ciphertext,
                             created_by)
VALUES (current_team(), $1, $2, $2, $3, $4, $5, $6, $7)

-- name: version_of
-- No row: there is no such version in the team.
SELECT secret_versions.version
  FROM secret_versions
  JOIN secrets ON secrets.id = secret_id
 WHERE name = $1
   AND secret_versions.version = $2

-- name: restore_version
-- The value stays where it is sealed; the new version points there.
INSERT INTO secret_versions (team_id, secret_id, version, value_of, reference, created_by)
SELECT team_id, secret_id, $2, value_of, reference, $4
  FROM secret_versions
 WHERE secret_id = $1
   AND version = $3

-- name: forget_versions
-- Those up to $2, but what a later one needs.
DELETE FROM secret_versions AS old
 WHERE secret_id = $1
   AND version <= $2
   AND NOT EXISTS (SELECT FROM secret_versions
                    WHERE secret_id = $1 AND value_of = old.version AND version <> old.version)

-- name: get_secret
-- No row: there is none of that name in the team.
SELECT id, name, secrets.version, secrets.created_by, secrets.created_at, updated_at, reference
  FROM secrets
  JOIN secret_versions ON secret_id = id AND secret_versions.version = secrets.version
 WHERE name = $1

-- name: list_secrets
SELECT id, name, secrets.version, secrets.created_by, secrets.created_at, updated_at, reference
  FROM secrets
  JOIN secret_versions ON secret_id = id AND secret_versions.version = secrets.version
 WHERE name > $1
 ORDER BY name
 LIMIT $2

-- name: list_versions
SELECT secret_versions.version, nullif(value_of, secret_versions.version) AS restored_from, reference,
       secret_versions.created_by, secret_versions.created_at, secret_versions.version = secrets.version AS is_current
  FROM secret_versions
  JOIN secrets ON id = secret_id
 WHERE name = $1
   AND ($2::int IS NULL OR secret_versions.version < $2)
 ORDER BY secret_versions.version DESC
 LIMIT $3

-- name: delete_secret
DELETE FROM secrets
 WHERE name = $1

-- name: secrets_named
SELECT name
  FROM secrets
 WHERE name = ANY ($1::text[])

-- name: draw
-- Redeem a worker's ticket. No row: unknown, expired, or already drawn; never say which. The same connection ($2) may
-- draw again: it cannot know whether a draw was committed whose answer was lost.
UPDATE worker_tickets
   SET drawn_at = now(), drawn_by = $2
 WHERE token_hash = $1
   AND (drawn_at IS NULL OR drawn_by = $2)
   AND now() < expires_at
RETURNING team_id, task_id, attempt

-- name: leased_task
-- What the ticket's attempt may have, and on whose machine it runs. No row: the attempt is no longer the current one.
SELECT tasks.credentials, tasks.created_by, dispatchers.enrolment IS NOT NULL AS remote, enrolments.public_key
  FROM tasks
  JOIN attempts ON attempts.task_id = tasks.id AND attempts.attempt = tasks.attempt
  LEFT JOIN dispatchers ON dispatchers.id = attempts.dispatcher_id
  LEFT JOIN enrolments ON enrolments.id = dispatchers.enrolment
 WHERE tasks.id = $1
   AND tasks.attempt = $2
   AND tasks.status = 'active'
   AND attempts.status = 'active'
   AND attempts.lease_expires_at > now()

-- name: sealed_secrets
-- The versions in use, each with the row that its value is sealed in.
SELECT secrets.id, name, secrets.version, value.version AS value_of, value.reference IS NOT NULL AS is_reference,
       value.key_version, value.sealed_key, value.ciphertext
  FROM secrets
  JOIN secret_versions AS used ON used.secret_id = secrets.id AND used.version = secrets.version
  JOIN secret_versions AS value ON value.secret_id = secrets.id AND value.version = used.value_of
 WHERE name = ANY ($1::text[])

-- name: add_lease
INSERT INTO leases (team_id, task_id, attempt, kind, name, version, source, source_id)
VALUES (current_team(), $1, $2, $3, $4, $5, $6, $7)

-- name: leases
-- What attempts hold now, or ($1) what the attempts of one task drew.
SELECT id, task_id, attempt, kind, name, version, source, leased_at, ended_at
  FROM leases
 WHERE CASE WHEN $1::uuid IS NULL THEN ended_at IS NULL ELSE task_id = $1 END
   AND ($2::uuid IS NULL OR id < $2)
 ORDER BY id DESC
 LIMIT $3

-- name: leases_to_revoke
-- Over here, not yet over at their source; in a transaction that says it is about every team.
SELECT id, source, source_id
  FROM leases
 WHERE ended_at IS NOT NULL
   AND source_id IS NOT NULL
   AND revoked_at IS NULL
 ORDER BY id
 LIMIT 100

-- name: lease_revoked
UPDATE leases
   SET revoked_at = now()
 WHERE id = $1

-- name: find_integration
-- A provider's integration: that of the project ($2) before the global one. No row: the team has neither.
SELECT integrations.id, integrations.provider, key_version, sealed_key, ciphertext
  FROM integrations
  LEFT JOIN integration_projects ON integration_id = integrations.id
  LEFT JOIN projects ON projects.id = project_id AND identifier = $2
 WHERE integrations.provider = $1
   AND (is_global OR projects.id IS NOT NULL)
 ORDER BY projects.id IS NULL
 LIMIT 1

-- name: task_exists
-- No row: the team has no such task.
SELECT id
  FROM tasks
 WHERE id = $1
