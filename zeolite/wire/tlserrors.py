"""What went wrong with TLS, in words that say what to do about it.

OpenSSL names the cause in a way of its own; here its names become sentences, on the
side that refuses and on the one that is told of it.
"""

import ssl

from .channel import ConnectionLost


class TLSFailed(ConnectionLost):
    """The two could not agree on encryption, or one does not accept the other.

    Trying again does not help as long as nobody changes anything.
    """


# X509_V_ERR_..., why a certificate was not accepted here.
_EXPIRED, _NOT_YET = 10, 9
_SELF_SIGNED = 18
_UNKNOWN_AUTHORITY = 19, 20, 21, 2
_WRONG_NAME = 62, 64

#: Why a server did not accept this client, by the end of OpenSSL's name.
_FROM_SERVER = {
    "ALERT_CERTIFICATE_REQUIRED": (
        "the server wants a certificate from this client; set certificate in its ssl "
        "section, load one into its SSLContext, or give a command --ssl-certificate"
    ),
    "ALERT_HANDSHAKE_FAILURE": (
        "the server ended the TLS handshake; it wants a certificate from this client, "
        "or they have no ciphers in common"
    ),
    "ALERT_UNKNOWN_CA": (
        "the server does not know this client's certificate; add it, or its "
        "authority's, to authenticate on the server"
    ),
    "ALERT_CERTIFICATE_EXPIRED": "this client's certificate has expired; renew it",
    "ALERT_PROTOCOL_VERSION": "the server has no version of TLS in common with us",
}

#: Why a client did not accept this server, likewise.
_FROM_CLIENT = {
    "ALERT_UNKNOWN_CA": (
        "it does not know this server's certificate; add it, or its authority's, to "
        "authenticate on the client"
    ),
    "ALERT_CERTIFICATE_EXPIRED": (
        "this server's certificate has expired; renew it and send SIGUSR2"
    ),
    "ALERT_BAD_CERTIFICATE": (
        "it does not accept this server's certificate; perhaps it is not for the host "
        "name that the client expects"
    ),
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": (
        "it has no certificate, but authenticate is set here; give the client one"
    ),
    "ALERT_PROTOCOL_VERSION": "it has no version of TLS in common with us",
    "UNSUPPORTED_PROTOCOL": "it has no version of TLS in common with us",
    "NO_SHARED_CIPHER": "it has no ciphers in common with us",
}


def explain(error, peer):
    """Return why TLS failed with an `ssl.SSLError`, as text.

    `peer` is what the other end is, "server" or "client".
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        return _certificate(error, peer)
    if isinstance(error, ssl.SSLWantReadError):
        return f"the {peer} wants to renegotiate, which is not done here"
    reason = error.reason or ""
    for name, text in (_FROM_SERVER if peer == "server" else _FROM_CLIENT).items():
        if reason.endswith(name):
            return text
    said = _in_words(reason) or error.strerror or str(error)
    if "ALERT" in reason and "CERTIFICATE" in reason:
        ours = "client" if peer == "server" else "server"
        return f"the {peer} does not accept this {ours}'s certificate: {said}"
    return f"TLS with the {peer} failed: {said}"


def _certificate(error, peer):
    code = error.verify_code
    subject = f"the {peer}'s certificate"
    if code == _EXPIRED:
        return f"{subject} has expired; renew it"
    if code == _NOT_YET:
        return f"{subject} is not valid yet; look at the clocks of both machines"
    if code == _SELF_SIGNED:
        return f"{subject} is self-signed and not among those in authenticate"
    if code in _UNKNOWN_AUTHORITY:
        return (
            f"{subject} is signed by an authority that is not known here; name the "
            "authority's certificate, or this one, in authenticate"
        )
    said = error.verify_message.rstrip(".")
    if code in _WRONG_NAME:
        return f"{said}; set server-hostname to a name that it is valid for"
    return f"{subject} is not accepted: {said}"


def _in_words(reason):
    """Return OpenSSL's name of a reason as text."""
    for start in ("SSLV3_", "TLSV13_", "TLSV1_"):
        reason = reason.removeprefix(start)
    return reason.lower().replace("_", " ")
