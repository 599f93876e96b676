"""What a system is given to encrypt with: files, a configuration, a context.

`tls` in a target are the paths of two PEM files: `certificate` has one certificate
and its key, which server and clients use alike, and `authority` is who signed it.
"""

import ssl

_CONFIGURATION = """\
<zeo>
  address {host}:{port}
  <ssl>
    certificate {certificate}
    authenticate {authority}
  </ssl>
</zeo>
<filestorage>
  path {path}
  {blobs}
</filestorage>
"""


def make(scratch):
    """Make the files; return their paths for a target."""
    import trustme

    authority = trustme.CA()
    paths = {
        name: scratch.fresh(f"{name}.pem") for name in ("certificate", "authority")
    }
    own = authority.issue_cert("localhost", "127.0.0.1")
    own.private_key_and_cert_chain_pem.write_to_path(paths["certificate"])
    authority.cert_pem.write_to_path(paths["authority"])
    return {name: str(path) for name, path in paths.items()}


def arguments(scratch, tls, host, port, path, blob_dir=None):
    """Return a server's arguments for its command line."""
    file = scratch.fresh("server.conf")
    blobs = f"blob-dir {blob_dir}" if blob_dir is not None else ""
    settings = {"host": host, "port": port, "path": path, "blobs": blobs, **tls}
    file.write_text(_CONFIGURATION.format(**settings))
    return ["-C", file]


def context(tls):
    """Return a client's `ssl.SSLContext`."""
    made = ssl.create_default_context(cafile=tls["authority"])
    made.load_cert_chain(tls["certificate"])
    return made
