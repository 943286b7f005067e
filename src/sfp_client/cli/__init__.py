"""The command line: `sfp-server`, and `sfp` for `sfp server …`.

`main.py` is the root and turns every error into one sentence and an exit status; `command.py` gives each command
the common options; one file per command group. `config.py` decides which server and who, `keep.py` keeps
sign-ins, `output.py` is the only way to print. Modules import what they need inside the commands: start-up time.
"""
