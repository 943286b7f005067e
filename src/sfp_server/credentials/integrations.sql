-- name: add_project
-- Violates projects_identifier_unique.
INSERT INTO projects (team_id, identifier, remote_url, created_by)
VALUES (current_team(), $1, $2, $3)
RETURNING *

-- name: list_projects
SELECT *
  FROM projects
 WHERE ($1::text IS NULL OR identifier = $1)
   AND ($2::uuid IS NULL OR id > $2)
 ORDER BY id
 LIMIT $3

-- name: get_project
-- No row: it is not there, or another team's.
SELECT *
  FROM projects
 WHERE id = $1

-- name: lock_project
SELECT version
  FROM projects
 WHERE id = $1
   FOR NO KEY UPDATE

-- name: move_project
UPDATE projects
   SET remote_url = $2, version = version + 1, updated_at = now()
 WHERE id = $1
RETURNING *

-- name: delete_project
-- No row: it is not there, or another team's.
DELETE FROM projects
 WHERE id = $1
RETURNING identifier

-- name: project_of_repository
-- By name, else by the end of the address, if that is clear. No row: none, or several.
SELECT *
  FROM projects
 WHERE identifier = $1
    OR (right(lower(regexp_replace(remote_url, '(\.git)?/*$', '')), length($1) + 1) = '/' || lower($1)
        AND NOT EXISTS (SELECT FROM projects WHERE identifier = $1)
        AND (SELECT count(*) FROM projects AS others
              WHERE right(lower(regexp_replace(others.remote_url, '(\.git)?/*$', '')), length($1) + 1) = '/' || lower($1)) = 1)

-- name: add_integration
-- Violates integrations_one_global.
INSERT INTO integrations (id, team_id, provider, auth_type, is_global, config, key_version, sealed_key, ciphertext,
                          created_by)
VALUES ($1, current_team(), $2, $3, $4, $5, $6, $7, $8, $9)

-- name: join_project
-- No row: there is no such project. Violates integration_projects_once.
INSERT INTO integration_projects (team_id, project_id, provider, integration_id)
SELECT team_id, id, $2, $1
  FROM projects
 WHERE identifier = $3
RETURNING project_id

-- name: get_integration
-- No row: it is not there, or another team's.
SELECT id, provider, auth_type, is_global, config, created_by, created_at,
       ARRAY(SELECT identifier
               FROM integration_projects
               JOIN projects ON projects.id = project_id
              WHERE integration_id = integrations.id
              ORDER BY identifier) AS projects
  FROM integrations
 WHERE id = $1

-- name: list_integrations
SELECT id, provider, auth_type, is_global, config, created_by, created_at,
       ARRAY(SELECT identifier
               FROM integration_projects
               JOIN projects ON projects.id = project_id
              WHERE integration_id = integrations.id
              ORDER BY identifier) AS projects
  FROM integrations
 WHERE ($1::uuid IS NULL OR id > $1)
 ORDER BY id
 LIMIT $2

-- name: delete_integration
-- No row: it is not there, or another team's.
DELETE FROM integrations
 WHERE id = $1
RETURNING provider

-- name: has_integration
-- No row: the team has none of this provider, for the project or for all.
SELECT id
  FROM integrations
 WHERE provider = $1
   AND (is_global
        OR EXISTS (SELECT FROM integration_projects
                     JOIN projects ON projects.id = project_id
                    WHERE integration_id = integrations.id AND identifier = $2))
 LIMIT 1
