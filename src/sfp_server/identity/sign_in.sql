-- name: administers_instance
SELECT administers_instance();

-- name: providers
SELECT p.id, p.slug, p.name, p.kind, p.config, p.sealed_secret, p.domains, p.create_users, p.shares_users,
       t.slug AS default_team, p.default_role, p.enabled, p.created_at, p.updated_at
  FROM identity_providers p
  LEFT JOIN teams t ON t.id = p.default_team_id
 ORDER BY p.slug;

-- name: provider
-- No row: there is none of that name.
SELECT p.id, p.slug, p.name, p.kind, p.config, p.sealed_secret, p.domains, p.create_users, p.shares_users,
       t.slug AS default_team, p.default_role, p.enabled, p.created_at, p.updated_at
  FROM identity_providers p
  LEFT JOIN teams t ON t.id = p.default_team_id
 WHERE p.slug = $1;

-- name: any_provider_enabled
SELECT EXISTS (SELECT FROM identity_providers WHERE enabled);

-- name: set_provider
-- No row: there is one of that name, and it is of another kind. `made`: it is new.
INSERT INTO identity_providers AS p (id, slug, name, kind, config, sealed_secret, domains, create_users, shares_users,
                                     default_team_id, default_role, enabled, created_by)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
ON CONFLICT (slug) DO UPDATE
   SET name = excluded.name,
       config = excluded.config,
       sealed_secret = excluded.sealed_secret,
       domains = excluded.domains,
       create_users = excluded.create_users,
       shares_users = excluded.shares_users,
       default_team_id = excluded.default_team_id,
       default_role = excluded.default_role,
       enabled = excluded.enabled,
       updated_at = now()
 WHERE p.kind = excluded.kind
RETURNING p.created_at = p.updated_at AS made;

-- name: remove_provider
DELETE FROM identity_providers
 WHERE slug = $1;

-- name: own_team
-- A team of the user of this transaction, whom it must belong to as owner.
SELECT t.id
  FROM teams t
  JOIN memberships m ON m.team_id = t.id
 WHERE t.slug = $1
   AND m.user_id = $2
   AND m.role = 'owner';

-- name: has_identities
SELECT EXISTS (SELECT FROM identities WHERE provider_id = $1);

-- name: clear_flows
-- Some that are long over; used ones too.
DELETE FROM sign_in_flows
 WHERE id IN (
         SELECT id
           FROM sign_in_flows
          WHERE expires_at < now()
          LIMIT 50
            FOR UPDATE SKIP LOCKED);

-- name: flows_under_way
SELECT flows_under_way($1);

-- name: begin_flow
INSERT INTO sign_in_flows (token_hash, browser_hash, provider_id, request_id, redirect_to, client_state,
                           client_challenge, continue_to, address, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, now() + make_interval(secs => $10));

-- name: open_flow
-- Where the flow of this state leads. No row: unknown, used or expired.
SELECT redirect_to
  FROM sign_in_flows
 WHERE token_hash = $1
   AND used_at IS NULL
   AND now() < expires_at;

-- name: use_flow
-- The flow whose state this transaction presents, used up by this. No row: unknown, used, expired, another provider's,
-- or begun by another browser.
UPDATE sign_in_flows f
   SET used_at = now()
  FROM identity_providers p
 WHERE f.token_hash = $1
   AND f.browser_hash = $2
   AND f.used_at IS NULL
   AND now() < f.expires_at
   AND p.id = f.provider_id
   AND p.slug = $3
   AND p.enabled
RETURNING f.id, f.request_id, f.created_at, f.redirect_to, f.client_state, f.client_challenge, f.continue_to;

-- name: identity
-- Whom this provider calls so. No row: nobody yet.
SELECT u.id, u.email, u.disabled_at IS NOT NULL AS disabled
  FROM identities i
  JOIN users u ON u.id = i.user_id
 WHERE i.provider_id = $1
   AND i.subject = $2;

-- name: identities_of
-- Of whom this user is linked to already.
SELECT provider_id, subject
  FROM identities
 WHERE user_id = $1;

-- name: drop_given_password
-- The password that an owner chose for this user, who signs in by a provider from now on. No row: none.
UPDATE users
   SET password_hash = NULL,
       password_by = NULL
 WHERE id = $1
   AND password_by IS NOT NULL
RETURNING id;

-- name: link_identity
INSERT INTO identities (provider_id, subject, user_id, email)
VALUES ($1, $2, $3, $4);

-- name: touch_identity
UPDATE identities
   SET last_used_at = now(),
       email = $3
 WHERE provider_id = $1
   AND subject = $2;

-- name: external_user
-- No row: nobody has this address.
SELECT id, email, disabled_at IS NOT NULL AS disabled
  FROM users
 WHERE email = $1;

-- name: add_external_user
INSERT INTO users (email, first_name, last_name)
VALUES ($1, $2, $3)
RETURNING id, email, false AS disabled;

-- name: join_team
INSERT INTO memberships (team_id, user_id, role)
VALUES ($1, $2, $3);

-- name: default_team_of
SELECT default_team_id
  FROM identity_providers
 WHERE id = $1;

-- name: is_owner_somewhere
SELECT EXISTS (SELECT FROM memberships WHERE user_id = $1 AND role = 'owner');

-- name: clear_codes
DELETE FROM authorization_codes
 WHERE token_hash IN (
         SELECT token_hash
           FROM authorization_codes
          WHERE expires_at < now() - interval '1 day'
          LIMIT 50
            FOR UPDATE SKIP LOCKED);

-- name: add_code
INSERT INTO authorization_codes (token_hash, user_id, redirect_to, client_challenge, via, expires_at)
VALUES ($1, $2, $3, $4, $5, now() + make_interval(secs => $6));

-- name: use_code
-- The code that this transaction presents, used up by this, whether or not the rest of the request is right. No row:
-- unknown, used or expired.
UPDATE authorization_codes
   SET used_at = now()
 WHERE token_hash = $1
   AND used_at IS NULL
   AND now() < expires_at
RETURNING user_id, redirect_to, client_challenge, via;

-- name: code_opened
UPDATE authorization_codes
   SET session_id = $2
 WHERE token_hash = $1;

-- name: code_used_before
-- The session that the code opened. No row: unknown, not used, or used without success.
SELECT session_id, user_id
  FROM authorization_codes
 WHERE token_hash = $1
   AND session_id IS NOT NULL;

-- name: user_who_may_sign_in
-- No row: there is none, or they are disabled.
SELECT id, email
  FROM users
 WHERE id = $1
   AND disabled_at IS NULL;

-- name: add_cookie
INSERT INTO browser_cookies (token_hash, session_id)
VALUES ($1, $2);

-- name: cookie
-- The session of the cookie that this transaction presents. No row: unknown, or its session has ended.
SELECT s.id AS session_id, u.id AS user_id, u.email
  FROM browser_cookies b
  JOIN sessions s ON s.id = b.session_id
  JOIN users u ON u.id = s.user_id
 WHERE b.token_hash = $1
   AND s.revoked_at IS NULL
   AND now() < s.expires_at
   AND now() < b.created_at + interval '12 hours'
   AND u.disabled_at IS NULL;
