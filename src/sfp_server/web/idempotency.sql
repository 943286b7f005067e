-- name: reserve
-- Take the key for this transaction: waits for another that holds it. No row: the key has an answer already.
-- Answers older than a day are replaced; some of the team's old ones are removed on the way.
WITH old AS (
  DELETE FROM idempotency_keys
   WHERE (team_id, actor, key) IN (
           SELECT team_id, actor, key
             FROM idempotency_keys
            WHERE team_id = current_team()
              AND created_at < now() - interval '25 hours'
              AND key <> $2
            LIMIT 20
              FOR UPDATE SKIP LOCKED)
)
INSERT INTO idempotency_keys AS k (team_id, actor, key, body_hash, status, response)
VALUES (current_team(), $1, $2, $3, 0, 'null')
ON CONFLICT (team_id, actor, key) DO UPDATE
   SET body_hash = excluded.body_hash,
       created_at = now()
 WHERE k.created_at < now() - interval '24 hours'
RETURNING key;

-- name: answer
-- Keep what was answered; in the transaction that reserved the key.
UPDATE idempotency_keys
   SET status = $3,
       response = $4
 WHERE actor = $1
   AND key = $2;

-- name: find
SELECT body_hash, status, response
  FROM idempotency_keys
 WHERE actor = $1
   AND key = $2;
