"""Where the vault's private keys are kept, and where a secret may be kept that is only referred to here.

`base.py` is the seam; a source implements the half that it has. `choose.py` builds them from the settings. Only the
broker makes one: nobody else has their credentials.
"""
