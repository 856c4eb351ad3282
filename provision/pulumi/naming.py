"""The names under which Pulumi finds the package and its provider."""

PACKAGE = "holdfast"
#: The engine finds the provider on PATH. Where it does not, this stands in its message, as what to do; no engine
#: knows how to download from it, so that none tries.
DOWNLOAD_URL = "pip-install:holdfast-provision[pulumi]"
