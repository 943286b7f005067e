"""The version of this release, as it was installed."""

from importlib.metadata import version

VERSION = version("sfp-server")
#: of the paths below /sfp/api
API_VERSION = "1"
