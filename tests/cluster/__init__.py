"""A cluster in miniature: hosts that can be cut off and killed, and the servers that they share."""
