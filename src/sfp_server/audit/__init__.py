"""The audit trail: who did what to what. Append-only, written in the transaction of what it tells of."""
