"""The rules of the spec: pure and offline. Each knows one mistake, says where it is and how to mend it."""
