"""One instance on one machine: `init` makes its directory, `start` runs it, `stop` ends it.

Start with `place.py` (what lies where), then `create.py` (init), `start.py` and `services.py` (which programs,
with which rights). supervisord keeps the services alive; each is started through `launch.py`, which takes
away what a service does not need before it runs. `commands.py` is the thin command-line skin.
"""
