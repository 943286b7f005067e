"""The event log: what happened, numbered without holes per channel, and everybody who is told live.

Start with `service.py` (record and read, inside the caller's transaction). From there an event travels
commit → NOTIFY → `relay.py` (the deliverer process) → Valkey → `live.py` (each API process) → `socket.py`
(WebSocket) or `stream.py` (SSE). Only the log has to be right: everything after it may lose a message, and
`live.py` then reads the log again.
"""
