"""How workers are made. Start at `base.py` (the seam), then `sandbox.py` (the default runtime).

base         the seam: workload in, exit out            supervised   what both runtimes share
sandbox      bubblewrap (bwrap, image, seccomp)          process      without namespaces
warm         pristine workers in waiting                 worker       one worker, from pristine to used up
job          workload → message                          conversation message → exit; reports parses
egress       who may be reached, and the dialling        cgroups, launch, folders, channel: the kernel's part
"""
