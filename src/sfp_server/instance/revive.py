"""Start the instance in DIRECTORY again, until it works: what guard.py turns into when supervisord has died."""

import os
import sys
import time
from pathlib import Path

from sfp_server.instance.place import Place
from sfp_server.instance.problem import InstanceError
from sfp_server.instance.start import start

#: seconds between tries, for example while the disk is full
PAUSE = 5.0


def main(directory: Path) -> None:
    """Try for ever; `stop` ends this process as it ends every process of the instance."""
    at = Place(directory=directory, tenant=directory.name)
    while True:
        _say("supervisord has died: starting the instance again")
        try:
            start(at, directory.parent.parent, os.environ, _say)
        except InstanceError as error:
            _say(str(error))
            time.sleep(PAUSE)
        else:
            return


def _say(text: str) -> None:
    sys.stderr.write(f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
