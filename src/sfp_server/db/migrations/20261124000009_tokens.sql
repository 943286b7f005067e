-- Limits of guessing, sessions, application tokens, and the exchange of CI tokens.

SET lock_timeout = '5s';
SET ROLE sfp_migrator;
SET search_path = sfp;

-- How long one waits after the last of so many failures: `free` ones cost nothing, then `first` seconds, doubled by each
-- further failure up to `longest`.
CREATE FUNCTION wait_after(failures int, free int, first int, longest int) RETURNS interval LANGUAGE sql IMMUTABLE AS $$
  SELECT make_interval(secs => CASE WHEN failures < free THEN 0
                                    ELSE least(longest, first * power(2, least(30, failures - free))) END)
$$;

-- Makes, together with the used token itself and a key that is not here, its successor once more: for a client whose answer
-- was lost, within seconds of its first try.
ALTER TABLE refresh_tokens ADD COLUMN salt bytea;

RESET ROLE;
RESET search_path;
