-- name: members
-- The members of the actor's team, or those with one role, by e-mail address.
SELECT u.id, u.email, u.first_name, u.last_name, u.created_at, m.role, m.created_at AS joined_at
  FROM memberships m
  JOIN users u ON u.id = m.user_id
 WHERE m.team_id = current_team()
   AND ($1::text IS NULL OR m.role = $1)
 ORDER BY u.email
 LIMIT $2
OFFSET $3;

-- name: count_members
SELECT count(*)
  FROM memberships
 WHERE team_id = current_team()
   AND ($1::text IS NULL OR role = $1);

-- name: member
-- No row: there is no such user, or none in the actor's team.
SELECT u.id, u.email, u.first_name, u.last_name, u.created_at, m.role, m.created_at AS joined_at
  FROM memberships m
  JOIN users u ON u.id = m.user_id
 WHERE m.team_id = current_team()
   AND u.email = $1;

-- name: add_member
-- No row: it is one already.
INSERT INTO memberships (team_id, user_id, role)
VALUES (current_team(), $1, $2)
ON CONFLICT (team_id, user_id) DO NOTHING
RETURNING role;

-- name: set_role
-- No row: it is no member, or has this role already.
UPDATE memberships
   SET role = $2
 WHERE team_id = current_team()
   AND user_id = $1
   AND role <> $2
RETURNING role;

-- name: remove_member
DELETE FROM memberships
 WHERE team_id = current_team()
   AND user_id = $1;

-- name: own_teams
-- The teams of a user, in the order in which they were joined.
SELECT t.slug, t.name, t.description, m.role, t.created_at
  FROM memberships m
  JOIN teams t ON t.id = m.team_id
 WHERE m.user_id = $1
 ORDER BY m.created_at, m.team_id;

-- name: add_team
INSERT INTO teams (id, slug, name, description)
VALUES (current_team(), $1, $2, $3)
RETURNING created_at;

-- name: lock_team
-- Nothing is added to the team from here on: what refers to it waits.
SELECT slug
  FROM teams
 WHERE id = current_team()
   FOR UPDATE;

-- name: leftovers
SELECT team_leftovers(current_team());

-- name: delete_team
DELETE FROM teams
 WHERE id = current_team();

-- name: add_user
-- Always answers a row.
SELECT id, is_new
  FROM add_user($1, $2, $3, $4);

-- name: drop_foreign_password
-- The password that an owner of another team chose for this user, unless that is the caller's team too. No row: none.
UPDATE users
   SET password_hash = NULL,
       password_by = NULL
 WHERE id = $1
   AND password_by <> current_team()
   AND NOT EXISTS (
         SELECT FROM memberships
          WHERE team_id = password_by
            AND user_id = current_user_id()
            AND role = 'owner')
RETURNING id;

-- name: find_user
SELECT find_user($1);

-- name: remove_user
SELECT remove_user($1);

-- name: rename_user
-- NULL keeps a name.
UPDATE users
   SET first_name = coalesce($2, first_name),
       last_name = coalesce($3, last_name)
 WHERE id = $1;
