-- name: record
-- Append one event to each channel. Always answers one row.
SELECT record_event($1, $2, $3, $4::text::jsonb)

-- name: record_batch
-- Append events of one name to one channel; answers the last number.
SELECT record_batch($1, $2, $3, $4::text[]::jsonb[])

-- name: read
-- The next events of a channel of the actor's team. No row: there is nothing after $2 (yet).
SELECT channel, seq, event, at, data
  FROM events
 WHERE team_id = current_team()
   AND channel = $1
   AND seq > $2
 ORDER BY seq
 LIMIT $3

-- name: frames
-- As `read`, with the data as JSON text, ready to be sent.
SELECT channel, seq, event, at, data::text AS data
  FROM events
 WHERE team_id = current_team()
   AND channel = $1
   AND seq > $2
 ORDER BY seq
 LIMIT $3

-- name: heads
-- The last numbers of channels. No row for a channel: nothing was ever recorded there.
SELECT name, last_seq
  FROM channels
 WHERE team_id = current_team()
   AND name = ANY($1)

-- name: task_status
-- The status of a task. No row: there is none of that id in the actor's team.
SELECT status
  FROM tasks
 WHERE id = $1

-- name: relay
-- The next events of many channels of many teams: at most $4 each and $5 together, in order within a channel.
SELECT wanted.team_id, wanted.channel, next.seq, next.event, next.at, next.data
  FROM unnest($1::uuid[], $2::text[], $3::bigint[]) AS wanted (team_id, channel, after)
 CROSS JOIN LATERAL (
       SELECT e.seq, e.event, e.at, e.data::text AS data
         FROM events AS e
        WHERE e.team_id = wanted.team_id
          AND e.channel = wanted.channel
          AND e.seq > wanted.after
        ORDER BY e.seq
        LIMIT $4
       ) AS next
 LIMIT $5
