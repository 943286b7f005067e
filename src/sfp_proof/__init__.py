"""How anyone checks what an instance has signed: its audit trail, its checkpoints, its receipts.

Nothing of the server is needed for it: this package has the standard library, `cryptography`, and the public keys.
The server signs with the same words. Start with `chain.py` (what a seal says), then `check.py` (reading a trail).
"""
