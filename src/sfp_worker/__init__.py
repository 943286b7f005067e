"""What runs inside the sandbox: the supervisor of one task. Standard library only.

Start reading at `supervisor.py` (the life of a worker), then `run.py` (the task's processes).
`protocol.py` is the language spoken over the control socket and is shared with the server.

Nothing here is trusted by the server: it bounds and parses what a worker says, and believes the
kernel alone about how it ended.
"""
