"""`stop`: running tasks end first (bounded), then everything else, in order; twice is fine."""

from sfp_server.instance import supervisor
from sfp_server.instance.place import Place
from sfp_server.instance.problem import InstanceError
from sfp_server.runtimes import remains

#: all stop times of the services in a row, and a little more, seconds
PATIENCE = 120.0


def stop(at: Place, *, cut: bool) -> bool:
    """Stop the instance. Returns False when nothing of it ran. Raises InstanceError when something stays.

    Args:
        cut: do not wait for running tasks; they are lost and will be found and told so at the next start.
    """
    client = supervisor.Supervisor(at)
    pid = supervisor.supervisor_pid(at)
    alive = client.is_alive()
    if alive:
        if cut:
            client.kill("dispatcher")
        client.shutdown()
        # asking wakes supervisord's loop, which would otherwise look once a second whether somebody has ended
        if pid is not None and not supervisor.wait_gone([pid], PATIENCE, poke=client.is_alive):
            raise InstanceError(f"the instance does not end in time: try `stop -f`, or end the process {pid}")
    ended = supervisor.end_leftovers(at)
    if cut or ended:
        remains.remove(at.run / "workers", at.directory / "workers")
    return alive or ended > 0
