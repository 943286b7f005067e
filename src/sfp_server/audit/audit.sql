-- name: record
-- Append one entry in the team of the transaction.
INSERT INTO audit_log (team_id, actor, action, subject, detail, request_id, tag)
VALUES (current_team(), $1, $2, $3, $4, $5, $6)

-- name: list
-- Entries of the actor's team, and of its people before they had chosen a team (sign-ins), newest first. Text filters
-- that are NULL do not count; $1 may be the name that the actor has today; a $2 that ends in a full stop is the
-- beginning of actions. `actor_name` is of today and no part of what is sealed; NULL: gone, or no person and no token.
SELECT id, at, actor, action, subject, detail, request_id, sealed_at,
       CASE WHEN team_id IS NOT NULL THEN team_seq END AS team_seq,
       coalesce((SELECT email FROM users WHERE users.id = substring(actor FROM '^user:([0-9a-f-]{36})$')::uuid),
                (SELECT name FROM application_tokens AS token
                  WHERE token.id = substring(actor FROM '^application:([0-9a-f-]{36})$')::uuid)) AS actor_name
  FROM audit_log
 WHERE (team_id = current_team() OR team_id IS NULL)
   AND ($1::text IS NULL OR actor = $1
        OR actor IN (SELECT 'user:' || users.id FROM users WHERE email = lower($1)
                     UNION ALL SELECT 'application:' || token.id FROM application_tokens AS token WHERE name = $1))
   AND ($2::text IS NULL OR action = $2 OR (right($2, 1) = '.' AND starts_with(action, $2)))
   AND ($3::text IS NULL OR subject = $3)
   AND ($4::timestamptz IS NULL OR at >= $4)
   AND ($5::timestamptz IS NULL OR at < $5)
   AND ($6::bigint IS NULL OR id < $6)
 ORDER BY id DESC
 LIMIT $7

-- name: unsealed
-- What waits for its seal, in the order in which it is sealed.
SELECT id, team_id::text AS team, (at AT TIME ZONE 'UTC')::text AS at, actor, action, subject, detail::text AS detail,
       request_id, encode(tag, 'hex') AS tag,
       EXISTS (SELECT FROM audit_log AS other WHERE other.tag = audit_log.tag AND other.id < audit_log.id) AS is_copied
  FROM audit_log
 WHERE seq IS NULL
 ORDER BY id
 LIMIT $1

-- name: waiting
-- How many wait for their seal ($1: of this team; NULL: all), since when, and whether that is longer than $2 seconds.
SELECT count(*) AS entries, (min(at) AT TIME ZONE 'UTC')::text AS oldest,
       coalesce(min(at) < clock_timestamp() - make_interval(secs => $2), false) AS too_long
  FROM audit_log
 WHERE seq IS NULL
   AND ($1::uuid IS NULL OR team_id = $1)

-- name: seal
-- Give entries their seals. Violates audit_log_by_seq or audit_log_by_team_seq when a number is taken.
UPDATE audit_log
   SET seq = new.seq, team_seq = new.team_seq, previous = new.previous, team_previous = new.team_previous,
       sealed_at = $8::timestamptz, key_id = $9::text, attested = new.attested, signature = new.signature
  FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bytea[], $5::bytea[], $6::boolean[], $7::bytea[])
       AS new (id, seq, team_seq, previous, team_previous, attested, signature)
 WHERE audit_log.id = new.id
   AND audit_log.seq IS NULL

-- name: last
-- The last sealed entry of the whole trail. No row: nothing has been sealed.
SELECT id, team_id::text AS team, (at AT TIME ZONE 'UTC')::text AS at, actor, action, subject, detail::text AS detail,
       request_id, encode(tag, 'hex') AS tag, seq, team_seq, previous, team_previous,
       (sealed_at AT TIME ZONE 'UTC')::text AS sealed_at, key_id, attested, signature
  FROM audit_log
 WHERE seq IS NOT NULL
 ORDER BY seq DESC
 LIMIT 1

-- name: last_of_teams
-- The last sealed entry of each of these chains. No row for a chain: nothing of it has been sealed.
SELECT entry.*
  FROM unnest($1::uuid[]) AS chain (id)
 CROSS JOIN LATERAL (
       SELECT id, team_id::text AS team, (at AT TIME ZONE 'UTC')::text AS at, actor, action, subject,
              detail::text AS detail, request_id, encode(tag, 'hex') AS tag, seq, team_seq, previous, team_previous,
              (sealed_at AT TIME ZONE 'UTC')::text AS sealed_at, key_id, attested, signature
         FROM audit_log
        WHERE audit_chain(team_id) = chain.id
          AND seq IS NOT NULL
        ORDER BY team_seq DESC
        LIMIT 1
       ) AS entry

-- name: chains
-- Every chain that has a sealed entry.
SELECT DISTINCT audit_chain(team_id) AS id
  FROM audit_log
 WHERE seq IS NOT NULL

-- name: sealed_after
-- The next sealed entries of the whole trail, after number $1.
SELECT id, team_id::text AS team, (at AT TIME ZONE 'UTC')::text AS at, actor, action, subject, detail::text AS detail,
       request_id, encode(tag, 'hex') AS tag, seq, team_seq, previous, team_previous,
       (sealed_at AT TIME ZONE 'UTC')::text AS sealed_at, key_id, attested, signature
  FROM audit_log
 WHERE seq > $1
 ORDER BY seq
 LIMIT $2

-- name: team_sealed_after
-- The next sealed entries of the chain $3, after its number $1.
SELECT id, team_id::text AS team, (at AT TIME ZONE 'UTC')::text AS at, actor, action, subject, detail::text AS detail,
       request_id, encode(tag, 'hex') AS tag, seq, team_seq, previous, team_previous,
       (sealed_at AT TIME ZONE 'UTC')::text AS sealed_at, key_id, attested, signature
  FROM audit_log
 WHERE audit_chain(team_id) = $3
   AND team_seq > $1
   AND seq IS NOT NULL
 ORDER BY team_seq
 LIMIT $2

-- name: receipt_task
-- A task as its receipt tells it; JSON as text, for hashing. No row: there is none of that id in the team.
SELECT id, (SELECT slug FROM teams WHERE teams.id = team_id) AS team, type, status, priority, runtime, toolchain, network, labels::text AS labels,
       data::text AS data, credentials, created_by, created_by_name, request_id, retry_of, series_id,
       (created_at AT TIME ZONE 'UTC')::text AS created_at, (started_at AT TIME ZONE 'UTC')::text AS started_at,
       (finished_at AT TIME ZONE 'UTC')::text AS finished_at, cancelled_by, result::text AS result,
       error ->> 'code' AS error, attempt
  FROM tasks
 WHERE id = $1

-- name: receipt_attempts
SELECT attempt, status, runtime, handle, exit_code, signal, error ->> 'code' AS error,
       (attempts.started_at AT TIME ZONE 'UTC')::text AS started_at, (ended_at AT TIME ZONE 'UTC')::text AS ended_at,
       usage::text AS usage, dispatchers.name AS dispatcher, dispatchers.version, dispatchers.toolchains
  FROM attempts
  LEFT JOIN dispatchers ON dispatchers.id = attempts.dispatcher_id
 WHERE task_id = $1
 ORDER BY attempt

-- name: receipt_leases
SELECT kind, name, version, attempt, (leased_at AT TIME ZONE 'UTC')::text AS leased_at
  FROM leases
 WHERE task_id = $1
 ORDER BY attempt, name, version

-- name: receipt_artifacts
SELECT name, size, sha256, attempt
  FROM artifacts
 WHERE task_id = $1
 ORDER BY attempt, name

-- name: receipt_inputs
-- The artifacts that a task was given.
SELECT id, name, size, sha256
  FROM artifacts
 WHERE id = ANY ($1::uuid[])
 ORDER BY id
