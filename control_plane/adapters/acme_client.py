"""The certificate authority on the other side, by ACME (RFC 8555): one account, one order at a time.

The client underneath blocks: each call runs in a thread and ends within its own time.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from acme import challenges, client, errors, messages
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from josepy import errors as jose_errors
from josepy import jwa, jwk
from requests.exceptions import RequestException

from control_plane.core.acme import challenge_owner
from control_plane.ports import CertificateOrder
from fleet.errors import Code, LocciError, invalid

_CALL_S: Final = 15
_POLL_S: Final = 1.0
_NONCES: Final = 8
"""So often a call is made anew that was refused for its nonce (RFC 8555, section 6.5)."""
_USER_AGENT: Final = "locci-cloud"
_BASE64URL: Final = re.compile(r"[A-Za-z0-9_-]{16,512}={0,2}")


@dataclass(frozen=True, slots=True)
class ExternalAccount:
    """The customer's account at the authority to which this one is bound (RFC 8555, section 7.3.4)."""

    kid: str
    hmac_key: str = field(repr=False)
    """In base64url, as authorities give it out."""


@dataclass(frozen=True, slots=True)
class Account:
    """Where to order, as whom. `key_pem` is the account's."""

    directory: str
    contact: tuple[str, ...]
    ca_file: Path | None
    key_pem: bytes
    external: ExternalAccount | None = None


def external_account(kid: str, path: Path | None) -> ExternalAccount | None:
    """The account with the key that is in a file which only its owner may read. Raises INVALID_ARGUMENT."""
    if not kid or path is None:
        return None
    at = "acme_eab_hmac_key_file"
    try:
        mode, text = path.stat().st_mode, path.read_text().strip()
    except (OSError, ValueError) as error:
        raise invalid(at, f"{at}: {path} cannot be read: {error}") from error
    if mode & 0o077:
        raise invalid(at, f"{at}: others may read {path}; chmod 600 {path}")
    if not _BASE64URL.fullmatch(text):
        raise invalid(at, f"{at}: {path} must hold the key in base64url, as the authority gave it, and nothing else")
    return ExternalAccount(kid, text.rstrip("="))


@dataclass(frozen=True, slots=True)
class _Handle:
    order: Any
    answers: tuple[tuple[Any, Any], ...]


class AcmeClient:
    """Implements `OrderingAuthority` for one authority and account."""

    def __init__(self, account: Account):
        self._account = account
        key = serialization.load_pem_private_key(account.key_pem, None)
        self._key = jwk.JWKEC(key=key)
        self._client: Any = None

    async def order(self, hostnames: tuple[str, ...], by_http: Collection[str]) -> CertificateOrder:
        """Begins an order for a certificate with a key of its own."""
        result = await _called(self._order, hostnames, by_http)
        assert isinstance(result, CertificateOrder)
        return result

    async def finish(self, order: CertificateOrder) -> str:
        """Has the authority look, and waits for the chain in PEM; what it asked for must be answered by now."""
        handle = order.handle
        assert isinstance(handle, _Handle)
        for challenge, answer in handle.answers:
            await _called(self._client.answer_challenge, challenge, answer)
        for authorization in handle.order.authorizations:
            await self._proven(authorization)
        begun = await _called(self._client.begin_finalization, handle.order)
        while True:
            try:
                done = await _called(self._client.poll_finalization, begun, datetime.now() + timedelta(seconds=_CALL_S))
            except TimeoutError:
                continue
            return str(done.fullchain_pem)

    async def suggested_renewal(self, chain_pem: str) -> float | None:
        """When the authority wants it to be renewed, seconds since 1970 (RFC 9773); None when it does not say."""
        leaf = x509.load_pem_x509_certificates(chain_pem.encode())[0]
        pem = leaf.public_bytes(serialization.Encoding.PEM)
        await _called(self._connect)
        moment, _ = await _called(self._client.renewal_time, pem)
        return moment.timestamp() if moment is not None else None

    def _connect(self) -> None:
        if self._client is not None:
            return
        verify = str(self._account.ca_file) if self._account.ca_file else True
        net = client.ClientNetwork(
            self._key,
            alg=jwa.ES256,
            verify_ssl=verify,  # type: ignore[arg-type]
            user_agent=_USER_AGENT,
            timeout=_CALL_S,
        )
        made = client.ClientV2(client.ClientV2.get_directory(self._account.directory, net), net)
        contact = tuple(f"mailto:{address}" for address in self._account.contact)
        wanted = messages.NewRegistration(contact=contact, terms_of_service_agreed=True)
        if (bound := self._account.external) is not None:
            proof = messages.ExternalAccountBinding.from_data(
                self._key.public_key(), bound.kid, bound.hmac_key, made.directory
            )
            wanted = wanted.update(external_account_binding=proof)
        try:
            made.new_account(wanted)
        except errors.ConflictError as known:
            body = messages.Registration()
            net.account = messages.RegistrationResource(uri=known.location, body=body)
        self._client = made

    def _order(self, hostnames: tuple[str, ...], by_http: Collection[str]) -> CertificateOrder:
        self._connect()
        key = ec.generate_private_key(ec.SECP256R1())
        order = self._client.new_order(_signing_request(key, hostnames))
        dns: dict[str, list[str]] = {}
        http: dict[str, tuple[str, str]] = {}
        answers = []
        for authorization in order.authorizations:
            if authorization.body.status == messages.STATUS_VALID:
                continue
            hostname = authorization.body.identifier.value
            if hostname in by_http:
                challenge = _challenge(authorization, challenges.HTTP01, "over HTTP (http-01)")
                http[hostname] = challenge.chall.encode("token"), challenge.chall.validation(self._key)
            else:
                challenge = _challenge(authorization, challenges.DNS01, "by DNS (dns-01)")
                dns.setdefault(challenge_owner(hostname), []).append(challenge.chall.validation(self._key))
            answers.append((challenge, challenge.chall.response(self._key)))
        form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        pem = key.private_bytes(serialization.Encoding.PEM, form, plain).decode()
        wanted = {owner: tuple(values) for owner, values in dns.items()}
        return CertificateOrder(wanted, http, pem, _Handle(order, tuple(answers)))

    async def _proven(self, authorization: Any) -> None:
        while True:
            found, _ = await _called(self._client.poll, authorization)
            match found.body.status:
                case messages.STATUS_VALID:
                    return
                case messages.STATUS_PENDING | messages.STATUS_PROCESSING:
                    await asyncio.sleep(_POLL_S)
                case status:
                    said = [str(c.error.detail) for c in found.body.challenges if c.error is not None]
                    name = found.body.identifier.value
                    raise _failed(f"{name} could not be proven: {'; '.join(said) or f'it is {status.name}'}")


def fresh_key() -> bytes:
    """The private key of a new account, in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, form, plain)


def _signing_request(key: ec.EllipticCurvePrivateKey, hostnames: tuple[str, ...]) -> bytes:
    names = x509.SubjectAlternativeName([x509.DNSName(name) for name in hostnames])
    request = x509.CertificateSigningRequestBuilder(x509.Name([])).add_extension(names, critical=False)
    return request.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _challenge(authorization: Any, kind: type, how: str) -> Any:
    for challenge in authorization.body.challenges:
        if isinstance(challenge.chall, kind):
            return challenge
    raise _failed(f"the authority offers no proof of {authorization.body.identifier.value} {how}")


async def _called(function: Any, *arguments: Any) -> Any:
    for _ in range(_NONCES):
        try:
            return await _called_once(function, *arguments)
        except messages.Error as error:
            if error.code != "badNonce":
                raise _failed(f"the authority refused: {error.detail or error.typ}") from error
    raise _failed("the authority refused every nonce")


async def _called_once(function: Any, *arguments: Any) -> Any:
    try:
        return await asyncio.to_thread(function, *arguments)
    except errors.TimeoutError as error:
        raise TimeoutError("the authority did not answer in time") from error
    except messages.Error:
        raise
    except errors.ARIError as error:
        raise _failed(str(error)) from error
    except (errors.Error, RequestException, jose_errors.Error, OSError, ValueError) as error:
        raise _failed(f"the authority cannot be used: {error}") from error


def _failed(message: str) -> LocciError:
    return LocciError(Code.UNAVAILABLE, "ACME_FAILED", message)
