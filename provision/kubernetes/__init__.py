"""Manifests of the servers behind targets of kind ``kubernetes``. Pure: records and targets in, plain dicts out."""
