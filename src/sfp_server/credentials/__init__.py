"""Credentials: stored sealed, leased to one attempt.

`vault.py` seals with a public key (the API) and opens with the private one (only the broker has it).
`service.py` is what an owner can do: set, list, delete. `broker.py` redeems a worker's ticket, once, for the
values that its task declared.
"""
