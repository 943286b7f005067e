"""Dispatchers on other machines: who may be one, and what is carried between them and the instance.

Start at `docs/dispatchers.md`. `token.py` is what such a machine is given; `enrolments.py` makes and ends it;
`courier.py` is the instance's one open port; `client.py` and `delivery.py` are its other end; `tls.py` makes the
certificates. What such a dispatcher may do in the database is in `db/migrations/*_remote_dispatchers.sql`.
"""
