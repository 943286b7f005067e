"""How workers are made. Start at `base.py` (the seam), then `sandbox.py` (the default runtime).

base         the seam: workload in, exit out            supervised   what all runtimes share
sandbox      bubblewrap (bwrap, image, seccomp)          process      without namespaces
container    by Docker or Podman: containerspec (what to make), contained (one of them), docker (the engine)
warm         pristine workers in waiting                 worker       one worker, from pristine to used up
job          workload → message                          conversation message → exit; reports parses
egress       who may be reached, and the dialling        cgroups, launch, folders, channel: the kernel's part
"""
