-- name: clear_assertions
DELETE FROM saml_assertions
 WHERE assertion_hash IN (SELECT assertion_hash FROM saml_assertions WHERE expires_at < now() LIMIT 20);

-- name: take_assertion
-- Raises saml_assertions_pkey when it was taken before.
INSERT INTO saml_assertions (assertion_hash, provider_id, expires_at)
VALUES ($1, $2, to_timestamp($3::float8));

-- name: fetched_metadata
-- No row: it was never fetched since the provider was set.
SELECT facts, extract(epoch FROM now() - fetched_at)::float8 AS age
  FROM saml_metadata
 WHERE provider_id = $1
   AND fetched_at > $2;

-- name: claim_refresh
-- One fetch a minute, whoever asks. No row: somebody has just tried.
INSERT INTO saml_metadata AS m (provider_id)
VALUES ($1)
ON CONFLICT (provider_id) DO UPDATE
   SET tried_at = now()
 WHERE m.tried_at < now() - interval '1 minute'
RETURNING provider_id;

-- name: keep_metadata
UPDATE saml_metadata
   SET facts = $2,
       fetched_at = now()
 WHERE provider_id = $1;
