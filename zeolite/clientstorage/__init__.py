"""The client: a ZODB storage whose data are on a server."""
