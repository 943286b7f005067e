"""Who somebody is: users, teams, sessions, application tokens → `Actor`.

Start at `authenticate.py` (a token becomes an Actor). `sessions.py` signs users in and out, `application_tokens.py`
makes and revokes machine tokens, `attempts.py` slows guessing down, `model.py` says what each role may do.
`keyset.py` holds the signing keys, `issuers.py` those of others, `ci.py` exchanges tokens of CI systems.
"""
