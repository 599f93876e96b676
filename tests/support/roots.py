"""The root object of a database, as a script writes and reads it."""

import transaction

import zeolite


def store(address, **values):
    connection = zeolite.connection(address)
    connection.root().update(values)
    transaction.commit()
    connection.close()


def root(address):
    connection = zeolite.connection(address)
    try:
        return dict(connection.root())
    finally:
        connection.close()
