-- name: current_secret
-- Identity of a secret, for its next version. No row: there is none of that name in the team.
SELECT id, version
  FROM secrets
 WHERE name = $1
   FOR NO KEY UPDATE

-- name: add_secret
-- A first version. Violates secrets_name_unique when another request was faster.
INSERT INTO secrets (id, team_id, name, version, key_version, sealed_key, ciphertext, created_by)
VALUES ($1, current_team(), $2, 1, $3, $4, $5, $6)
RETURNING id, name, version, created_by, created_at, updated_at

-- name: replace_secret
UPDATE secrets
   SET version = $2, key_version = $3, sealed_key = $4, ciphertext = $5, updated_at = now()
 WHERE id = $1
RETURNING id, name, version, created_by, created_at, updated_at

-- name: list_secrets
SELECT id, name, version, created_by, created_at, updated_at
  FROM secrets
 WHERE name > $1
 ORDER BY name
 LIMIT $2

-- name: delete_secret
-- No row: there is none of that name in the team.
DELETE FROM secrets
 WHERE name = $1
RETURNING id

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
SELECT id, name, version, key_version, sealed_key, ciphertext
  FROM secrets
 WHERE name = ANY ($1::text[])

-- name: add_lease
INSERT INTO leases (team_id, task_id, attempt, kind, name, version)
VALUES (current_team(), $1, $2, $3, $4, $5)
