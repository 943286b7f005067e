"""How fast tasks can be handed in: one by one over kept connections, and a thousand at once. Nothing runs meanwhile."""

import itertools
import time
from concurrent.futures import ThreadPoolExecutor

from clients import TRIVIAL, Connection
from instance import Instance

#: tasks of a bulk submission; the API's limit
BULK = 1000


def single(instance: Instance, clients: int, count: int) -> float:
    """Tasks per second that `clients` connections hand in, one `POST /tasks` after the other."""
    connections = [Connection(instance.api_url, instance.token, None) for _ in range(clients)]
    numbers = itertools.count()

    def submit(connection: Connection) -> None:
        while next(numbers) < count:
            connection.submit(TRIVIAL)

    began = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(submit, connections))
    seconds = time.perf_counter() - began
    for connection in connections:
        connection.close()
    return count / seconds


def bulk(instance: Instance, times: int) -> float:
    """Tasks per second, handed in a thousand at a time by one client."""
    connection = Connection(instance.api_url, instance.token, None)
    body = {"tasks": [TRIVIAL] * BULK}
    began = time.perf_counter()
    for _ in range(times):
        connection.json("POST", "/tasks/bulk", body)
    seconds = time.perf_counter() - began
    connection.close()
    return times * BULK / seconds
