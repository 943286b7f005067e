"""Signing in with SAML 2.0; this server is the service provider.

A provider's XML is read in a process that can do nothing else (`room.py` starts it, `inside.py` is it), used for one
document. It checks the signature and answers plain facts (`facts.py`); what they must be is decided in `rules.py`.
`service.py` is the way of a sign-in, `keep.py` what the database remembers, `routes.py` the two addresses that
providers know.

    inside the room: inside.py → document.py (hardened parsing) → response.py | metadata.py
"""
