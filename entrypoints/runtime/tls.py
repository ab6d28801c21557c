"""TLS contexts of the server and the worker, from PEM files."""

import os
import ssl
from pathlib import Path

from adapters.settings import Settings, SettingsError


def server_tls(settings: Settings) -> ssl.SSLContext | None:
    """Return the TLS context of a server; None if the settings name no certificate.

    Raises `SettingsError` for files that cannot be used.
    """
    certificate, key = settings.tls_cert, settings.tls_key
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise SettingsError("--tls-cert and --tls-key need each other; give both files.")
    _check_readable(certificate, "--tls-cert")
    _check_readable(key, "--tls-key")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(certificate, key, password=_refuse_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            problem = f"The key in {key} is not that of the first certificate in {certificate}."
        else:
            problem = (
                f"{certificate} and {key} are not a PEM certificate (the server's own first) and "
                "its private key."
            )
        raise SettingsError(f"{problem} Check --tls-cert and --tls-key.") from None
    return context


def trusted_by(ca_file: str | None) -> ssl.SSLContext | None:
    """Return the authorities that an HTTP client trusts: those in a PEM file, `ca_file` or the one
    that SSL_CERT_FILE names. None: the client's default ones.

    Raises `SettingsError` for a file that cannot be used.
    """
    option = "SSL_CERT_FILE" if ca_file is None else "--ca-file"
    file = ca_file or os.environ.get("SSL_CERT_FILE")
    if not file:
        return None
    _check_readable(file, option)
    try:
        return ssl.create_default_context(cafile=file)
    except ssl.SSLError:
        raise SettingsError(f"{file} contains no PEM certificate. Check {option}.") from None


def _check_readable(file: str, option: str) -> None:
    try:
        Path(file).read_bytes()
    except OSError as error:
        raise SettingsError(
            f"{file} cannot be read ({error.strerror}). Check {option} and the rights of the file."
        ) from error


def _refuse_password() -> str:
    """Refuse a key with a passphrase: OpenSSL would ask for it at the terminal."""
    raise SettingsError(
        "The private key of --tls-key has a passphrase; give one without, which only the server's "
        "account may read."
    )
