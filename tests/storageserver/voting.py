"""Clients that vote, one after the other, and one that finishes."""

from tests.support.waiting import wait_until


def finishing(server):
    """Return a client, the id of its `tpc_finish`, and the gate where that stops."""
    gate = server.storage.gate("before tpc_finish")
    client = server.connect()
    client.begin(1)
    client.ask("vote", 1)
    finish = client.call("tpc_finish", 1)
    gate.wait_until_reached()
    return client, finish, gate


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
