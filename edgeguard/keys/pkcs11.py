"""A device key on a PKCS#11 token: an HSM, a smart card, a secure element, or SoftHSM for trying things out.

Two keys of one label, both made on the token and not extractable: P-256 for Diffie-Hellman alone, which opens wraps,
and an HMAC key that derives local secrets. Class `hardware` where the token says that its slot is hardware; a token in
files is a file. docs/formats/device-keys.md section 3.

Anybody who may open a session can put *public* objects on a token, also under our label. So only private objects count,
only with the attributes that the token itself sets at generation, and the public key only after the private one has
agreed with it.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDH,
    SECP256R1,
    EllipticCurvePublicKey,
    generate_private_key,
)

from edgeguard.errors import EdgeGuardError, KeyUnavailableError
from edgeguard.harden.memory import SecretBuffer
from edgeguard.keys.context import derive_message
from edgeguard.keys.dh import DhKeyProvider
from edgeguard.keys.pkcs11_uri import Pkcs11Uri
from edgeguard.keys.public_key import DevicePublicKey, of_p256
from edgeguard.keys.token_link import TokenLink

P256_OID_DER: Final = bytes.fromhex("06082a8648ce3d030107")  # CKA_EC_PARAMS of prime256v1
_POINT_HEADER: Final = b"\x04\x41"  # CKA_EC_POINT is a DER octet string around the 65 bytes
_SECRET_BITS: Final = 256
MAX_OBJECTS: Final = 16  # of one label and class; more is an attempt to keep us busy


class Pkcs11Key:
    """`DhKey` on a token.

    Args:
        uri: where the key is.
        pin: gives the PIN; called only where this process has not logged in yet.

    Raises:
        KeyUnavailableError: EG-K001 no such key; EG-K015 it was not made on the token, or may leave it; and as
            `TokenLink`.
        EnvironmentMissingError: as `TokenLink`.
    """

    def __init__(self, uri: Pkcs11Uri, pin: Callable[[], bytes]) -> None:
        self._link = TokenLink(uri, pin)
        self._label = uri.object
        try:
            self.key_class = "hardware" if self._link.hardware else "file"
            with self._link.use() as session:
                classes = self._link.pkcs11.ObjectClass
                self._agreement = self._only(session, classes.PRIVATE_KEY, {"DERIVE": True, "SIGN": False})
                self._derivation = self._only(session, classes.SECRET_KEY, {"SIGN": True, "DERIVE": False})
                self._public = self._matching_public(session)
        except EdgeGuardError:
            self._link.close()
            raise

    @classmethod
    def create(cls, uri: Pkcs11Uri, pin: Callable[[], bytes]) -> Pkcs11Key:
        """Make both keys on the token, under a label that no private key of it has yet.

        Raises:
            KeyUnavailableError: EG-K001, the label is taken; EG-K015, the token makes keys that may leave it.
        """
        with TokenLink(uri, pin) as link:
            with link.writing() as session:
                p11 = link.pkcs11
                for kind in (p11.ObjectClass.PRIVATE_KEY, p11.ObjectClass.SECRET_KEY):
                    require_free_label(p11, session, uri.object, kind)
                generate_p256(p11, session, uri.object, p11.MechanismFlag.DERIVE)
                session.generate_key(
                    p11.KeyType.GENERIC_SECRET,
                    _SECRET_BITS,
                    label=uri.object,
                    store=True,
                    capabilities=p11.MechanismFlag.SIGN,
                    template=_template(p11, SIGN=True, VERIFY=False, DERIVE=False, ENCRYPT=False, DECRYPT=False),
                )
            return cls(uri, pin)

    def public_key(self) -> bytes:
        """See `DhKey`."""
        return self._public.der

    def ecdh(self, point: bytes) -> bytes:
        """See `DhKey`. The shared value comes back through a session object that is destroyed at once."""
        with self._link.use():
            return self._derive(point)

    def derive_secret(self, label: str) -> SecretBuffer:
        """See `DhKey`. HMAC-SHA-256 on the token over the label."""
        message = derive_message(label)
        with self._link.use():
            secret = self._derivation.sign(message, mechanism=self._link.pkcs11.Mechanism.SHA256_HMAC)
        return SecretBuffer.copy_of(secret)

    def close(self) -> None:
        """Let go of the token; the last one to do so logs out."""
        self._link.close()

    def _derive(self, point: bytes) -> bytes:
        p11 = self._link.pkcs11
        shared = self._agreement.derive_key(
            p11.KeyType.GENERIC_SECRET,
            _SECRET_BITS,
            mechanism=p11.Mechanism.ECDH1_DERIVE,
            mechanism_param=(p11.KDF.NULL, None, point),
            store=False,
            template={p11.Attribute.SENSITIVE: False, p11.Attribute.EXTRACTABLE: True},
        )
        try:
            return bytes(shared[p11.Attribute.VALUE])
        finally:
            shared.destroy()

    def _only(self, session: Any, kind: Any, uses: Mapping[str, bool]) -> Any:
        p11 = self._link.pkcs11
        found = private_objects(p11, session, self._label, kind)
        if len(found) != 1:
            raise KeyUnavailableError(
                f"the token holds {len(found) or 'no'} private {kind.name.lower()} objects {self._label!a}",
                code="EG-K001", hint="make the key with: edgeguard-provision keygen --key pkcs11:...",
            )  # fmt: skip
        wanted = {"LOCAL": True, "ALWAYS_SENSITIVE": True, "NEVER_EXTRACTABLE": True, "TOKEN": True, **uses}
        require_attributes(p11, found[0], wanted)
        return found[0]

    def _matching_public(self, session: Any) -> DevicePublicKey:
        p11 = self._link.pkcs11
        own = generate_private_key(SECP256R1())
        agreed = self._derive(of_p256(own.public_key()).point)
        for key in public_points(p11, session, self._label):
            if hmac.compare_digest(own.exchange(ECDH(), key), agreed):
                return of_p256(key)
        raise KeyUnavailableError(
            f"the token holds no public key {self._label!a} that fits its private one", code="EG-K015",
            hint="make a new key with: edgeguard-provision keygen --key pkcs11:...",
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"<Pkcs11Key {self._label!a}>"


class Pkcs11KeyProvider(DhKeyProvider):
    """KeyProvider on a key that `Pkcs11Key.create` made; arguments and errors as for `Pkcs11Key`."""

    def __init__(self, uri: Pkcs11Uri, pin: Callable[[], bytes]) -> None:
        self._own(Pkcs11Key(uri, pin))

    @classmethod
    def generate(cls, uri: Pkcs11Uri, pin: Callable[[], bytes]) -> Pkcs11KeyProvider:
        """Make a new key; see `Pkcs11Key.create`."""
        made = cls.__new__(cls)
        made._own(Pkcs11Key.create(uri, pin))
        return made

    def close(self) -> None:
        """Let go of the token."""
        self._token_key.close()

    def _own(self, key: Pkcs11Key) -> None:
        self._token_key = key
        DhKeyProvider.__init__(self, key)


def private_objects(p11: Any, session: Any, label: str, kind: Any) -> list[Any]:
    """Return the objects of a label that only somebody who has logged in could make, at most MAX_OBJECTS."""
    attributes = p11.Attribute
    wanted = {attributes.CLASS: kind, attributes.LABEL: label, attributes.PRIVATE: True}
    return [item for _, item in zip(range(MAX_OBJECTS), session.get_objects(wanted), strict=False)]


def public_points(p11: Any, session: Any, label: str) -> list[EllipticCurvePublicKey]:
    """Return the P-256 public keys of a label; anybody can have put them there."""
    attributes = p11.Attribute
    wanted = {attributes.CLASS: p11.ObjectClass.PUBLIC_KEY, attributes.LABEL: label}
    found = []
    for _, item in zip(range(MAX_OBJECTS), session.get_objects(wanted), strict=False):
        with suppress(ValueError, p11.PKCS11Error):
            raw = bytes(item[attributes.EC_POINT])
            point = raw.removeprefix(_POINT_HEADER) if len(raw) == 67 else raw  # some tokens give it bare
            if bytes(item[attributes.EC_PARAMS]) == P256_OID_DER and len(point) == 65:
                found.append(EllipticCurvePublicKey.from_encoded_point(SECP256R1(), point))
    return found


def require_free_label(p11: Any, session: Any, label: str, kind: Any) -> None:
    """Refuse to make a second key of a label (EG-K001)."""
    if private_objects(p11, session, label, kind):
        raise KeyUnavailableError(f"the token already holds a key {label!a}", code="EG-K001", hint="choose another")


def require_attributes(p11: Any, item: Any, wanted: Mapping[str, bool]) -> None:
    """Check a private object: P-256 or a generic secret, sensitive, not extractable, and `wanted`.

    Raises:
        KeyUnavailableError: EG-K015.
    """
    wrong = [name for name, value in {**wanted, **_KEPT}.items() if _flag(p11, item, name) is not value]
    if item.object_class == p11.ObjectClass.PRIVATE_KEY:
        params = b""
        with suppress(p11.PKCS11Error):
            params = bytes(item[p11.Attribute.EC_PARAMS])
        wrong += [] if params == P256_OID_DER else ["EC_PARAMS"]
    if wrong:
        raise KeyUnavailableError(
            f"the token's key is not one that was made for this use and stays there: {', '.join(sorted(wrong))}",
            code="EG-K015", hint="make it with edgeguard-provision, on a token that keeps keys",
        )  # fmt: skip


def generate_p256(p11: Any, session: Any, label: str, use: Any) -> None:
    """Make a P-256 key pair on the token for one use, DERIVE or SIGN."""
    parameters = session.create_domain_parameters(p11.KeyType.EC, {p11.Attribute.EC_PARAMS: P256_OID_DER}, local=True)
    signs = use == p11.MechanismFlag.SIGN
    parameters.generate_keypair(
        store=True,
        label=label,
        mechanism=p11.Mechanism.EC_KEY_PAIR_GEN,
        capabilities=use,
        private_template=_template(p11, SIGN=signs, DERIVE=not signs, DECRYPT=False),
        public_template={p11.Attribute.VERIFY: signs, p11.Attribute.ENCRYPT: False, p11.Attribute.WRAP: False},
    )


_KEPT: Final = {"PRIVATE": True, "SENSITIVE": True, "EXTRACTABLE": False}


def _template(p11: Any, **uses: bool) -> dict[Any, bool]:
    return {p11.Attribute[name]: value for name, value in {**_KEPT, **uses, "UNWRAP": False}.items()}


def _flag(p11: Any, item: Any, name: str) -> bool | None:
    with suppress(p11.PKCS11Error):
        return bool(item[p11.Attribute[name]])
    return None
