-- name: session
-- The user of a live session. No row: the session was revoked or has ended, or the user is disabled.
-- `stale`: its last use was written down more than a minute ago.
SELECT u.email,
       s.last_used_at < now() - interval '1 minute' AS stale
  FROM sessions s
  JOIN users u ON u.id = s.user_id
 WHERE s.id = $1
   AND s.user_id = $2
   AND s.revoked_at IS NULL
   AND now() < s.expires_at
   AND u.disabled_at IS NULL;

-- name: touch_session
UPDATE sessions
   SET last_used_at = now()
 WHERE id = $1;

-- name: memberships
-- The teams of the user of this transaction, in the order in which they were joined.
SELECT m.team_id, t.slug, t.name, m.role
  FROM memberships m
  JOIN teams t ON t.id = m.team_id
 WHERE m.user_id = $1
 ORDER BY m.created_at, m.team_id;

-- name: presented_token
-- The application token whose hash this transaction presents. No row: there is none.
SELECT a.id, a.name, a.scopes, a.team_id, t.slug, a.allowed_addresses,
       a.revoked_at IS NOT NULL AS revoked,
       a.expires_at <= now() AS expired,
       a.expires_at,
       a.last_used_at IS NULL OR a.last_used_at < now() - interval '1 minute' AS stale
  FROM application_tokens a
  JOIN teams t ON t.id = a.team_id
 WHERE a.token_hash = $1;

-- name: touch_token
UPDATE application_tokens
   SET last_used_at = now(),
       last_used_address = $2
 WHERE token_hash = $1;

-- name: user_by_email
-- For signing in only.
SELECT id, email, password_hash, disabled_at IS NOT NULL AS disabled
  FROM users
 WHERE email = $1;

-- name: live_user
-- A user who may come in. No row: unknown, or disabled.
SELECT id, email
  FROM users
 WHERE id = $1
   AND disabled_at IS NULL;

-- name: user_by_id
SELECT id, email, first_name, last_name, created_at
  FROM users
 WHERE id = $1;

-- name: has_signed_in_from
-- Whether this user has lately signed in from this address.
SELECT EXISTS (
  SELECT FROM sessions
   WHERE user_id = $1
     AND address = $2
     AND created_at > now() - interval '30 days');

-- name: addresses_of
SELECT DISTINCT address
  FROM sessions
 WHERE user_id = $1;

-- name: open_session
INSERT INTO sessions (user_id, expires_at, address, user_agent)
VALUES ($1, now() + make_interval(days => $2), $3, $4)
RETURNING id;

-- name: add_refresh_token
INSERT INTO refresh_tokens (token_hash, session_id, expires_at)
VALUES ($1, $2, now() + make_interval(days => $3));

-- name: use_refresh_token
-- No row: unknown, used before, expired, or its session has ended.
UPDATE refresh_tokens r
   SET used_at = now()
  FROM sessions s, users u
 WHERE r.token_hash = $1
   AND r.used_at IS NULL
   AND now() < r.expires_at
   AND s.id = r.session_id
   AND s.revoked_at IS NULL
   AND now() < s.expires_at
   AND u.id = s.user_id
   AND u.disabled_at IS NULL
RETURNING s.id AS session_id, u.id AS user_id, u.email;

-- name: extend_session
UPDATE sessions
   SET expires_at = now() + make_interval(days => $2),
       last_used_at = now()
 WHERE id = $1;

-- name: revoke_family
-- Someone used a refresh token again: whoever it was, the session ends. No row: it was not used before.
UPDATE sessions s
   SET revoked_at = coalesce(s.revoked_at, now())
  FROM refresh_tokens r
 WHERE r.token_hash = $1
   AND r.used_at IS NOT NULL
   AND s.id = r.session_id
RETURNING s.id AS session_id, s.user_id;

-- name: revoke_session
UPDATE sessions
   SET revoked_at = now()
 WHERE id = $1
   AND user_id = $2
   AND revoked_at IS NULL;

-- name: list_sessions
-- The live sessions of the user of this transaction, newest first.
SELECT id, created_at, last_used_at, expires_at, address, user_agent
  FROM sessions
 WHERE user_id = $1
   AND revoked_at IS NULL
   AND now() < expires_at
   AND ($2::uuid IS NULL OR id < $2)
 ORDER BY id DESC
 LIMIT $3;

-- name: revoke_sessions_of
UPDATE sessions
   SET revoked_at = now()
 WHERE user_id = $1
   AND revoked_at IS NULL;

-- name: count_try
-- Count one try for each subject that has not to wait; `wait` says how many seconds the others have. Counts are forgotten
-- after a day, few failures after an hour; some forgotten ones are removed on the way, so that the table stays small.
WITH old AS (
  DELETE FROM login_attempts
   WHERE subject IN (
           SELECT subject
             FROM login_attempts
            WHERE last_at < now() - interval '1 hour'
              AND (failures < 5 OR last_at < now() - interval '1 day')
              AND subject <> ALL ($1::text[])
            ORDER BY last_at
            LIMIT 20
              FOR UPDATE SKIP LOCKED)
), limits AS (
  SELECT * FROM unnest($1::text[], $2::int[], $3::int[], $4::int[]) AS limits (subject, free, first, longest)
), counted AS (
  INSERT INTO login_attempts AS a (subject, failures, last_at)
  SELECT subject, 1, now()
    FROM limits
   ORDER BY subject
  ON CONFLICT (subject) DO UPDATE
     SET (failures, last_at) = (
           SELECT CASE WHEN is_forgotten THEN 1 WHEN has_to_wait THEN a.failures ELSE a.failures + 1 END,
                  CASE WHEN has_to_wait AND NOT is_forgotten THEN a.last_at ELSE now() END
             FROM (SELECT a.last_at < now() - interval '1 day'
                          OR (a.failures < 5 AND a.last_at < now() - interval '1 hour') AS is_forgotten,
                          now() < a.last_at + wait_after(a.failures, l.free, l.first, l.longest) AS has_to_wait
                     FROM limits l
                    WHERE l.subject = a.subject) AS now)
  RETURNING a.subject, a.failures, a.last_at
)
SELECT c.last_at = now() AS counted,
       extract(epoch FROM c.last_at - now() + wait_after(c.failures, l.free, l.first, l.longest)) AS wait
  FROM counted c
  JOIN limits l ON l.subject = c.subject;

-- name: forget_failures
DELETE FROM login_attempts
 WHERE subject = ANY ($1::text[]);

-- name: take_back
-- One try of each subject did not fail after all.
UPDATE login_attempts
   SET failures = greatest(failures - 1, 0)
 WHERE subject = ANY ($1::text[]);

-- name: create_token
-- A token that is made for less than a week is not told of as one that expires within a week; and so on.
INSERT INTO application_tokens (id, team_id, name, token_hash, scopes, created_by, created_by_name, expires_at,
                                allowed_addresses, from_ci, told)
VALUES ($1, current_team(), $2, $3, $4, $5, $6, now() + make_interval(secs => $7), $8::text[]::cidr[], $9,
        CASE WHEN $9 THEN 3 WHEN $7 <= 86400 THEN 2 WHEN $7 <= 7 * 86400 THEN 1 ELSE 0 END)
RETURNING created_at, expires_at;

-- name: sweep_tokens
-- Remove some that the exchange made and that nobody could use for a day.
DELETE FROM application_tokens
 WHERE id IN (
         SELECT id
           FROM application_tokens
          WHERE team_id = current_team()
            AND from_ci
            AND expires_at < now() - interval '1 day'
          LIMIT 20);

-- name: tokens_to_tell
-- Tokens of all teams of whose end something is to be told: seven days, one day before, and when it is there.
SELECT id, team_id
  FROM application_tokens
 WHERE revoked_at IS NULL
   AND (told < 3 AND expires_at <= now()
        OR told < 2 AND expires_at <= now() + interval '1 day'
        OR told < 1 AND expires_at <= now() + interval '7 days')
 ORDER BY expires_at
 LIMIT 100;

-- name: tell_token
-- Take the telling for this transaction. No row: somebody else has told it, or it was revoked.
UPDATE application_tokens
   SET told = CASE WHEN expires_at <= now() THEN 3 WHEN expires_at <= now() + interval '1 day' THEN 2 ELSE 1 END
 WHERE id = $1
   AND revoked_at IS NULL
   AND told < CASE WHEN expires_at <= now() THEN 3 WHEN expires_at <= now() + interval '1 day' THEN 2 ELSE 1 END
   AND expires_at <= now() + interval '7 days'
RETURNING id, name, expires_at, told;

-- name: list_tokens
-- Those of the exchange only when asked for: they come by the minute.
SELECT a.id, a.name, t.slug AS team, a.scopes, a.created_at, a.created_by_name AS created_by,
       a.expires_at, a.revoked_at, a.last_used_at, a.last_used_address,
       a.allowed_addresses, a.from_ci
  FROM application_tokens a
  JOIN teams t ON t.id = a.team_id
 WHERE a.team_id = current_team()
   AND ($1::uuid IS NULL OR a.id < $1)
   AND ($3 OR NOT a.from_ci)
 ORDER BY a.id DESC
 LIMIT $2;

-- name: find_token
-- No row: unknown, or another team's.
SELECT a.id, a.name, t.slug AS team, a.scopes, a.created_at, a.created_by_name AS created_by,
       a.expires_at, a.revoked_at, a.last_used_at, a.last_used_address,
       a.allowed_addresses, a.from_ci
  FROM application_tokens a
  JOIN teams t ON t.id = a.team_id
 WHERE a.id = $1
   AND a.team_id = current_team();

-- name: revoke_token
-- No row: it was revoked before.
UPDATE application_tokens
   SET revoked_at = now()
 WHERE id = $1
   AND team_id = current_team()
   AND revoked_at IS NULL
RETURNING name, expires_at;

-- name: add_team
INSERT INTO teams (id, slug, name)
VALUES ($1, $2, $3);

-- name: add_user
INSERT INTO users (email, password_hash)
VALUES ($1, $2)
RETURNING id;

-- name: set_password
UPDATE users
   SET password_hash = $2,
       password_by = NULL,
       disabled_at = NULL
 WHERE id = $1;

-- name: make_owner
INSERT INTO memberships (team_id, user_id, role)
VALUES ($1, $2, 'owner')
ON CONFLICT (team_id, user_id) DO UPDATE
   SET role = 'owner';

-- name: member_as_actor
-- A user of the team of this transaction, by id or by e-mail address. No row: not a member, or disabled.
SELECT u.id, u.email, m.role, m.team_id, t.slug
  FROM memberships m
  JOIN users u ON u.id = m.user_id
  JOIN teams t ON t.id = m.team_id
 WHERE m.team_id = current_team()
   AND u.disabled_at IS NULL
   AND CASE WHEN $1::uuid IS NOT NULL THEN u.id = $1 ELSE u.email = $2 END;

-- name: token_as_actor
-- A token of the team of this transaction that opens something.
SELECT a.id, a.name, a.scopes, a.team_id, t.slug
  FROM application_tokens a
  JOIN teams t ON t.id = a.team_id
 WHERE a.id = $1
   AND a.team_id = current_team()
   AND a.revoked_at IS NULL
   AND now() < a.expires_at;

-- name: task_as_resource
SELECT created_by
  FROM tasks
 WHERE id = $1;

-- name: artifact_as_resource
SELECT created_by
  FROM artifacts
 WHERE id = $1;

-- name: secret_as_resource
SELECT created_by
  FROM secrets
 WHERE name = $1;

-- name: application_token_as_resource
SELECT created_by::text AS created_by
  FROM application_tokens
 WHERE id = $1
   AND team_id = current_team();
