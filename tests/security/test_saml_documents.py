"""What is read of a SAML answer: a forged one says nothing. The reader itself; `test_saml.py` goes the whole way."""

import base64
import copy
import json
import re

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lxml import etree
from saml_forgery import ASSERTION, PROTOCOL, SIGNATURE, Said, evil, hmac_signed, new_pair, signed, wrapped

from sfp_server.identity.saml import document, metadata, response
from sfp_server.identity.saml.document import Refused

PAIR = new_pair()
OTHER = new_pair()


def read(data, *pairs):
    return response.read(data, [pair.text for pair in pairs or (PAIR,)])


def reason(data, *pairs):
    """Why it is refused; what it says when it is taken."""
    try:
        facts = read(data, *pairs)
    except Refused as refused:
        return refused.reason
    return facts


def changed(data, path, change):
    """The document with `change` made to the element at `path`."""
    root = etree.fromstring(data)
    names = {"a": ASSERTION, "p": PROTOCOL, "s": SIGNATURE}
    change(root.find(path, names))
    return etree.tostring(root)


def test_a_signed_assertion_is_read():
    facts = read(Said().signed(PAIR))
    assert (facts["subject"], facts["issuer"]) == ("id-of-ann", "https://idp.example/metadata")
    assert list(facts["attributes"].values()) == [["ann@acme.example"]]
    assert facts["conditions"]["audiences"] == [["https://sfp.example/metadata"]]


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1()], ids=lambda curve: curve.name)
def test_elliptic_keys_sign_too(curve):
    pair = new_pair(curve=curve)
    assert read(Said().signed(pair), pair)["subject"] == "id-of-ann"


@pytest.mark.parametrize("algorithm", ["rsa-sha384", "rsa-sha512", "sha256-rsa-MGF1"])
def test_stronger_algorithms_are_taken(algorithm):
    assert read(Said().signed(PAIR, algorithm=algorithm, digest="sha512"))["subject"] == "id-of-ann"


def test_any_of_several_keys_may_have_signed():
    assert read(Said().signed(PAIR), OTHER, PAIR)["subject"] == "id-of-ann"


def test_an_expired_certificate_still_names_the_key():
    old = new_pair(days=-1)
    assert read(Said().signed(old), old)["subject"] == "id-of-ann"


def test_a_signature_with_inclusive_namespaces_is_taken():
    said = Said(more='<saml:AttributeStatement><saml:Attribute xmlns:xs="http://www.w3.org/2001/XMLSchema"'
                ' xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" Name="n"><saml:AttributeValue xsi:type="xs:string">v'
                "</saml:AttributeValue></saml:Attribute></saml:AttributeStatement>")  # fmt: skip
    assert read(said.signed(PAIR))["attributes"]["n"] == ["v"]


@pytest.mark.parametrize("variant", range(1, 9))
def test_signature_wrapping_is_refused(variant):
    assert reason(wrapped(Said().signed(PAIR), variant)) == "wrapping"


@pytest.mark.parametrize("variant", range(1, 9))
def test_signature_wrapping_of_a_signed_response_is_refused(variant):
    whole = signed(Said().signed(PAIR).decode(), PAIR, "_response").encode()
    assert reason(wrapped(whole, variant)) == "wrapping"


def test_an_evil_assertion_with_the_same_id_is_refused():
    def twice(root):
        root.append(evil(root.find(f"{{{ASSERTION}}}Assertion"), name=None))

    assert reason(changed(Said().signed(PAIR), ".", twice)) == "wrapping"


@pytest.mark.parametrize("attribute", ["Id", "id", "{http://www.w3.org/XML/1998/namespace}id"])
def test_an_id_in_another_spelling_is_the_same_id(attribute):
    def mark(element):
        element.set(attribute, "_assertion")

    assert reason(changed(Said().signed(PAIR), "p:Status", mark)) == "wrapping"


def test_a_signed_response_alone_is_not_enough():
    said = Said()
    whole = signed(said.response(said.assertion()).decode(), PAIR, "_response").encode()
    assert reason(whole) == "unsigned"


def test_an_unsigned_assertion_is_refused():
    said = Said()
    assert reason(said.response(said.assertion())) == "unsigned"


def test_a_changed_assertion_is_refused():
    def other(element):
        element.text = "owner@acme.example"

    for path in ("a:Assertion/a:Subject/a:NameID", "a:Assertion//a:Audience", "a:Assertion//a:AttributeValue"):
        assert reason(changed(Said().signed(PAIR), path, other)) == "signature", path


def test_a_key_that_the_answer_brings_itself_counts_for_nothing():
    assert reason(Said().signed(OTHER)) == "signature"


def test_a_key_value_in_the_answer_counts_for_nothing():
    def key_value(info):
        info.clear()
        value = etree.SubElement(info, f"{{{SIGNATURE}}}KeyValue")
        numbers = etree.SubElement(value, f"{{{SIGNATURE}}}RSAKeyValue")
        public = OTHER.key.public_key().public_numbers()
        for name, number in (("Modulus", public.n), ("Exponent", public.e)):
            length = (number.bit_length() + 7) // 8
            etree.SubElement(numbers, f"{{{SIGNATURE}}}{name}").text = base64.b64encode(
                number.to_bytes(length, "big")
            ).decode()

    assert reason(changed(Said().signed(OTHER), "a:Assertion/s:Signature/s:KeyInfo", key_value)) == "signature"


@pytest.mark.parametrize(
    ("algorithm", "digest"), [("rsa-sha1", "sha1"), ("rsa-sha1", "sha256"), ("rsa-sha256", "sha1")]
)
def test_sha1_is_refused(algorithm, digest):
    assert reason(Said().signed(PAIR, algorithm=algorithm, digest=digest)) == "algorithm"


def test_a_shared_secret_is_no_signature():
    assert reason(hmac_signed(Said(), PAIR)) == "algorithm"


def test_a_weak_key_signs_nothing():
    weak = new_pair(bits=1024)
    assert reason(Said().signed(weak), weak) == "signature"


@pytest.mark.parametrize(
    "c14n",
    ["http://www.w3.org/TR/2001/REC-xml-c14n-20010315", "http://www.w3.org/2001/10/xml-exc-c14n#WithComments"],
)
def test_other_canonicalizations_are_refused(c14n):
    assert reason(Said().signed(PAIR, c14n=c14n)) == "algorithm"


def test_the_signatures_own_canonicalization_is_looked_at_too():
    def method(element):
        element.set("Algorithm", "http://www.w3.org/TR/2001/REC-xml-c14n-20010315")

    path = "a:Assertion/s:Signature/s:SignedInfo/s:CanonicalizationMethod"
    assert reason(changed(Said().signed(PAIR), path, method)) == "algorithm"


def test_an_assertion_elsewhere_than_in_its_place_is_refused():
    def move(root):
        extensions = etree.SubElement(root, f"{{{PROTOCOL}}}Extensions")
        extensions.append(root.find(f"{{{ASSERTION}}}Assertion"))

    assert reason(changed(Said().signed(PAIR), ".", move)) == "wrapping"


@pytest.mark.parametrize("place", ["a:Assertion", "a:Assertion/a:Subject"])
def test_a_second_signature_is_refused(place):
    def add(element):
        signature = etree.fromstring(Said().signed(PAIR)).find(f".//{{{SIGNATURE}}}Signature")
        element.append(signature)

    assert reason(changed(Said().signed(PAIR), place, add)) == "wrapping"


def test_a_signature_elsewhere_than_in_its_place_is_refused():
    def move(assertion):
        signature = assertion.find(f"{{{SIGNATURE}}}Signature")
        assertion.find(f"{{{ASSERTION}}}Subject").append(signature)

    assert reason(changed(Said().signed(PAIR), "a:Assertion", move)) == "wrapping"


@pytest.mark.parametrize(
    "algorithm",
    [
        "http://www.w3.org/TR/1999/REC-xslt-19991116",
        "http://www.w3.org/TR/1999/REC-xpath-19991116",
        "http://www.w3.org/2000/09/xmldsig#base64",
    ],
)
def test_transformations_that_compute_are_refused(algorithm):
    def transform(element):
        element.set("Algorithm", algorithm)

    path = "a:Assertion/s:Signature/s:SignedInfo/s:Reference/s:Transforms/s:Transform[2]"
    assert reason(changed(Said().signed(PAIR), path, transform)) == "algorithm"


@pytest.mark.parametrize("uri", ["", "#_response", "https://evil.example/x", "#xpointer(/)", "file:///etc/passwd"])
def test_a_signature_about_something_else_is_refused(uri):
    def point(element):
        element.set("URI", uri)

    path = "a:Assertion/s:Signature/s:SignedInfo/s:Reference"
    assert reason(changed(Said().signed(PAIR), path, point)) == "wrapping"


def test_two_references_are_refused():
    def double(info):
        info.append(copy.deepcopy(info.find(f"{{{SIGNATURE}}}Reference")))

    assert reason(changed(Said().signed(PAIR), "a:Assertion/s:Signature/s:SignedInfo", double)) == "wrapping"


def test_a_comment_does_not_cut_an_address():
    data = Said(email="ann@acme.example.evil.example", name="ann@acme.example.evil.example").signed(PAIR)
    cut = data.replace(b"ann@acme.example.evil.example", b"ann@acme.example<!-- -->.evil.example")
    assert reason(cut) == "comment"


def test_without_the_rule_about_comments_the_whole_text_is_read(monkeypatch):
    """What is signed is read, also where the first line of defence is away."""
    monkeypatch.setattr(document._Counter, "_comment", lambda *_: None)
    data = Said(name="ann@acme.example.evil.example").signed(PAIR)
    cut = data.replace(b"ann@acme.example.evil.example", b"ann@acme.example<!-- -->.evil.example")
    assert read(cut)["subject"] == "ann@acme.example.evil.example"


def test_processing_instructions_are_refused():
    assert reason(Said().signed(PAIR).replace(b"id-of-ann", b"id-of<?x y?>-ann")) == "instruction"


BOMB = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))


@pytest.mark.parametrize(
    "head",
    [
        "<!DOCTYPE x>",
        '<!DOCTYPE x [<!ENTITY a "b">]>',
        '<!DOCTYPE x SYSTEM "file:///etc/passwd">',
        '<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>',
        '<!DOCTYPE x [<!ENTITY % p SYSTEM "http://127.0.0.1:1/x"> %p;]>',
        f'<!DOCTYPE x [<!ENTITY l0 "lol">{BOMB}]>',
        '<!DOCTYPE x [<!ATTLIST y ID CDATA "z">]>',
    ],
    ids=["plain", "entity", "external", "external entity", "parameter entity", "bomb", "default attribute"],
)
def test_document_types_are_refused(head):
    assert reason(head.encode() + Said().signed(PAIR)) == "doctype"
    with pytest.raises(Refused) as refused:
        metadata.read(head.encode() + METADATA.encode())
    assert refused.value.reason == "doctype"


@pytest.mark.parametrize("encoding", ["utf-16", "utf-7", "cp037", "iso-8859-1"])
def test_other_encodings_are_refused(encoding):
    text = f'<?xml version="1.0" encoding="{encoding}"?>' + Said().signed(PAIR).decode()
    assert reason(text.encode(encoding)) in {"encoding", "malformed"}
    assert reason(text.encode()) == "encoding"


def test_depth_number_and_size_are_bounded():
    said = Said()
    deep = "<a>" * 100 + "</a>" * 100
    assert reason(said.response(deep)) == "too_large"
    assert reason(said.response("<a/>" * 30_000)) == "too_large"
    attributes = " ".join(f"a{n}='1'" for n in range(100))
    assert reason(said.response(f"<a {attributes}/>")) == "too_large"
    assert reason(said.response("x" * 300_000)) == "too_large"
    flat = "<saml:Attribute Name='n'>" + "<saml:AttributeValue>v</saml:AttributeValue>" * 600 + "</saml:Attribute>"
    many = Said(more=f"<saml:AttributeStatement>{flat}</saml:AttributeStatement>")
    assert reason(many.signed(PAIR)) == "too_large"


def test_encrypted_assertions_are_refused_clearly():
    said = Said()
    hidden = f'<saml:EncryptedAssertion xmlns:saml="{ASSERTION}"/>'
    with pytest.raises(Refused, match="encrypts its assertions: switch that off") as refused:
        read(said.response(hidden))
    assert refused.value.reason == "encrypted"
    assert reason(said.response(hidden + signed(said.assertion(), PAIR, "_assertion"))) == "encrypted"


@pytest.mark.parametrize("count", [0, 2])
def test_there_is_exactly_one_assertion(count):
    one = Said()
    two = Said(assertion_id="_second")
    texts = [signed(one.assertion(), PAIR, "_assertion"), signed(two.assertion(), PAIR, "_second")]
    assert reason(one.response("".join(texts[:count]))) == "wrapping"


def test_a_refusal_of_the_provider_is_told():
    refused = Said(status="urn:oasis:names:tc:SAML:2.0:status:Responder")
    assert reason(refused.response("")) == "provider_refused"
    assert reason(refused.signed(PAIR)) == "provider_refused"


def test_unknown_conditions_are_refused():
    assert reason(Said(conditions='<x xmlns="urn:x"/>').signed(PAIR)) == "conditions"


@pytest.mark.parametrize(
    "text", [b"", b"x", b"<", b"\x00", b"\xff\xfe", b"<a/>", b"<samlp:Response/>", b"&lol;", b"<a>&lol;</a>", b"{}"]
)
def test_what_is_no_answer_is_refused(text):
    assert isinstance(reason(text), str)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_no_change_of_the_bytes_changes_what_is_believed(data):
    """Bytes replaced anywhere: refused, or read as it was signed."""
    whole = bytearray(_SIGNED)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(whole) - 1))
        piece = data.draw(st.sampled_from([b"<", b">", b"&", b'"', b"x", b"\xff", b"\n", b"<!---->", b"<a/>", b""]))
        whole[place : place + data.draw(st.integers(0, 4))] = piece
    found = reason(bytes(whole))
    if isinstance(found, dict):
        assert {**found, "destination": 0, "answers": 0, "response_issuer": 0} == _BELIEVED


_SIGNED = Said().signed(PAIR)
_BELIEVED = {**read(_SIGNED), "destination": 0, "answers": 0, "response_issuer": 0}

METADATA = f"""<?xml version="1.0"?>
<!-- made by hand -->
<md:EntityDescriptor xmlns:md="urn:oasis:names:tc:SAML:2.0:metadata" entityID="https://idp.example/metadata">
 <md:IDPSSODescriptor protocolSupportEnumeration="urn:oasis:names:tc:SAML:2.0:protocol">
  <md:KeyDescriptor use="signing"><ds:KeyInfo xmlns:ds="{SIGNATURE}"><ds:X509Data>
   <ds:X509Certificate>{PAIR.text}</ds:X509Certificate></ds:X509Data></ds:KeyInfo></md:KeyDescriptor>
  <md:SingleSignOnService Binding="urn:oasis:names:tc:SAML:2.0:bindings:HTTP-Redirect" Location="https://idp.example/sso"/>
 </md:IDPSSODescriptor>
</md:EntityDescriptor>"""


def test_metadata_is_read():
    facts = metadata.read(METADATA.encode())
    assert facts["certificates"] == [PAIR.text]
    assert (facts["entity_id"], facts["sign_in_url"]) == ("https://idp.example/metadata", "https://idp.example/sso")
    assert json.loads(json.dumps(facts)) == facts


def test_metadata_of_one_provider_may_stand_in_a_list_with_its_time_limit():
    inner = METADATA.partition("-->")[2]
    listed = f'<md:EntitiesDescriptor xmlns:md="urn:oasis:names:tc:SAML:2.0:metadata" validUntil="2030-01-01T00:00:00Z">{inner}</md:EntitiesDescriptor>'
    assert metadata.read(listed.encode())["valid_until"] == 1893456000
    with pytest.raises(Refused, match="describes 2 identity providers"):
        metadata.read(listed.replace(inner, inner * 2).encode())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ((PAIR.text, "AAAA"), "cannot be read"),
        ((PAIR.text, ""), "cannot be read"),
        ((PAIR.text, new_pair(bits=1024).text), "weak key"),
        (("HTTP-Redirect", "HTTP-POST"), "names no sign-in URL"),
        (("https://idp.example/sso", "javascript:alert(1)"), "names no sign-in URL"),
        (('use="signing"', 'use="encryption"'), "0 signing certificates"),
        (("urn:oasis:names:tc:SAML:2.0:protocol", "urn:oasis:names:tc:SAML:1.1:protocol"), "does not speak"),
        (('entityID="https://idp.example/metadata"', ""), "no entityID"),
        (("md:IDPSSODescriptor", "md:SPSSODescriptor"), "0 elements IDPSSODescriptor"),
        (('entityID="', 'validUntil="soon" entityID="'), "not a time"),
    ],
)
def test_metadata_that_cannot_be_used_is_refused_clearly(change, said):
    with pytest.raises(Refused, match=re.escape(said)):
        metadata.read(METADATA.replace(*change).encode())
