"""The server: accepts clients and serves storages to them."""
