-- name: clear_devices
-- Some that expired long ago: the table stays small without a service for it.
DELETE FROM device_codes
 WHERE id IN (SELECT id FROM device_codes WHERE expires_at < now() - interval '1 hour' LIMIT 20);

-- name: devices_waiting
SELECT devices_waiting($1);

-- name: add_device
INSERT INTO device_codes (device_hash, user_hash, client, address, expires_at, interval_seconds)
VALUES ($1, $2, $3, $4, now() + make_interval(secs => $5), $6);

-- name: waiting_device
-- The device that shows this code. No row: unknown, expired, or decided already; never say which.
SELECT id, client, address, created_at
  FROM device_codes
 WHERE user_hash = $1
   AND decided_at IS NULL
   AND now() < expires_at;

-- name: decide_device
-- A user says yes or no. No row: unknown, expired, or decided already.
UPDATE device_codes
   SET decided_at = now(),
       decided_by = $2,
       is_approved = $3
 WHERE user_hash = $1
   AND decided_at IS NULL
   AND now() < expires_at
RETURNING id, client, address, created_at;

-- name: redeem_device
-- Use an approved code up. No row: see `poll_device`.
UPDATE device_codes
   SET used_at = now()
 WHERE device_hash = $1
   AND is_approved
   AND used_at IS NULL
   AND now() < expires_at
RETURNING id, decided_by;

-- name: poll_device
-- Why it is not redeemed yet; who asks before the interval is over has to wait 5 seconds longer from now on (RFC 8628, 3.5).
-- No row: there is no such code.
UPDATE device_codes d
   SET interval_seconds = least(60, d.interval_seconds + CASE WHEN early.is_early THEN 5 ELSE 0 END),
       polled_at = now()
  FROM (SELECT id, polled_at IS NOT NULL AND now() < polled_at + make_interval(secs => interval_seconds) AS is_early
          FROM device_codes
         WHERE device_hash = $1
           FOR UPDATE) AS early
 WHERE d.id = early.id
RETURNING early.is_early, d.interval_seconds, d.decided_at IS NOT NULL AS is_decided, d.is_approved,
          d.used_at IS NOT NULL OR d.expires_at <= now() AS is_over;
