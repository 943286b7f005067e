-- name: enrolled
-- Whose courier key this is. No row: nobody's (any more).
SELECT id, name, slots
  FROM enrolments
 WHERE token_hash = $1

-- name: is_role
-- No row: no enrolled machine has this login role.
SELECT id
  FROM enrolments
 WHERE role = $1

-- name: carried_input
-- An artifact that a task names which this machine runs. No row: it is none of its business, or was deleted.
SELECT artifacts.id, artifacts.name, artifacts.size, artifacts.sha256
  FROM artifacts
  JOIN tasks ON tasks.team_id = artifacts.team_id
  JOIN attempts ON attempts.task_id = tasks.id AND attempts.attempt = tasks.attempt
  JOIN dispatchers ON dispatchers.id = attempts.dispatcher_id
 WHERE artifacts.id = $1
   AND artifacts.task_id IS NULL
   AND tasks.id = $2
   AND position(artifacts.id::text IN tasks.data::text) > 0
   AND attempts.status = 'active'
   AND dispatchers.enrolment = $3

-- name: held
-- A running attempt of this machine, and how many bytes it has kept. No row: it does not hold it (any more).
SELECT attempts.team_id,
       (SELECT coalesce(sum(size), 0)::bigint FROM artifacts
         WHERE artifacts.task_id = $1 AND artifacts.attempt = $2 AND artifacts.id <> $4) AS kept
  FROM attempts
  JOIN dispatchers ON dispatchers.id = attempts.dispatcher_id
 WHERE attempts.task_id = $1
   AND attempts.attempt = $2
   AND attempts.status = 'active'
   AND dispatchers.enrolment = $3

-- name: kept_already
-- Whose artifact this is. No row: nobody's yet.
SELECT task_id, attempt
  FROM artifacts
 WHERE id = $1

-- name: add_carried
-- A kept file of an attempt that this machine holds. No row: it does not (any more).
INSERT INTO artifacts (id, team_id, task_id, attempt, name, size, sha256, created_by)
SELECT $1, tasks.team_id, tasks.id, attempts.attempt, $4, $5, $6, tasks.created_by
  FROM tasks
  JOIN attempts ON attempts.task_id = tasks.id AND attempts.attempt = tasks.attempt
  JOIN dispatchers ON dispatchers.id = attempts.dispatcher_id
 WHERE tasks.id = $2
   AND attempts.attempt = $3
   AND attempts.status = 'active'
   AND dispatchers.enrolment = $7
RETURNING id
