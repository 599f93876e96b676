"""Both sides of the socket: frames, messages, channels.  Knows no storage."""
