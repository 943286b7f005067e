"""The audit trail: who did what to what. Written in the transaction of what it tells of, sealed by the auditor.

`service.record` writes an entry. `sealer.py` is the auditor's work, `checkpoints.py` what it leaves outside the
database, `desk.py` where the API asks it for receipts and verifications. How seals are checked is in `sfp_proof`, which
needs nothing of the server. The reasoning is in decision 0020.
"""
