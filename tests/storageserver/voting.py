"""Clients that vote, one after the other."""

from tests.support.waiting import wait_until


def voting(server, count, first=1):
    """Return `count` clients; the first has the commit lock, the others wait."""
    clients = []
    for id in range(first, first + count):
        client = server.connect()
        client.begin(id, oids=(id,))
        client.vote = client.call("vote", id)
        if clients:
            wait_until(lambda: server.served.commit_lock.waiting == len(clients))
        else:
            client.wait_for(client.vote)
        clients.append(client)
    return clients
