"""The bucket side: compare-and-set with fencing, watching, leases."""
