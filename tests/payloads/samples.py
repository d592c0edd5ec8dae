"""Payloads that a sender, a record or a signature could get wrong. Written as literals, so that no tool that handles
text files can change a byte of them."""

from typing import NamedTuple

MEBIBYTE = 1 << 20


class Sample(NamedTuple):
    """A body. `content_type` "" says that it is a JSON text, which can be sent as it stands."""

    body: bytes
    content_type: str = ""

    @property
    def is_json(self) -> bool:
        return not self.content_type


def _json_of(size: int) -> bytes:
    """A JSON text of exactly this many bytes, in which every line is another."""
    lines = b",\n".join(b'"line %07d: <&> \xe2\x82\xac \\" \\\\"' % number for number in range(size // 32 - 4))
    text = b"[%b," % lines
    return text + b'"' + b"x" * (size - len(text) - 3) + b'"]'


SAMPLES = {
    "null": Sample(b"null"),
    "true": Sample(b"true"),
    "a number": Sample(b"0"),
    "an empty text": Sample(b'""'),
    "an empty object": Sample(b"{}"),
    "minus zero": Sample(b"-0"),
    "integers of 20 digits": Sample(b'{"id":12345678901234567890,"negative":-98765432109876543210}'),
    "an integer of 5000 digits": Sample(b"[" + b"7" * 5000 + b"]"),
    "decimals as written": Sample(b"[1.0,1.10,100e-2,1E+2,0.1000000000000000055511151231257827]"),
    "numbers beyond a double": Sample(b'[1e400,-1e400,1e-400,1.7976931348623159e308,{"n":1E+9999}]'),
    "keys given twice": Sample(b'{"a":1,"a":2,"b":{"x":1,"x":2},"a":3}'),
    "keys of the envelope": Sample(
        b'{"payload":{"payload":1},"endpoint":"http://x","webhooks":[],"headers":{"a":"b"}}'
    ),
    "keys out of order": Sample(b'{"z":1,"a":2,"m":{"y":1,"b":2}}'),
    "odd whitespace": Sample(b'{\r\n\t"a" :\n\n\t[ 1 ,\t2\r, 3 ] ,   "b":{ }\t,"c" : [\n]\r\n}'),
    "html characters": Sample(b'{"html":"<a href=\'x\'>&amp; &lt;</a>","line":"\xe2\x80\xa8\xe2\x80\xa9"}'),
    "escapes": Sample(b'"\\u0000 \\u001f \\" \\\\ \\/ \\b\\f\\n\\r\\t \\u003c \\u00e9 \\uD83D\\uDE00 \\ud83d\\ude00"'),
    "escaped keys": Sample(b'{"\\u0061":1,"a":2,"\\u0000":3}'),
    "unescaped slashes and deletes": Sample(b'"/\x7f/"'),
    "text of many scripts": Sample('{"ключ":"значение","鍵":"値","🔑":"😀🏳️‍🌈","é":"e\u0301"}'.encode()),
    "a byte order mark inside": Sample(b'"\xef\xbb\xbf"'),
    "deep nesting": Sample(b'[{"a":' * 200 + b"1" + b"}]" * 200),
    "many small values": Sample(b"[" + b",".join([b"0"] * 20_000) + b"]"),
    "as large as allowed": Sample(_json_of(MEBIBYTE)),
    "empty": Sample(b"", "application/octet-stream"),
    "a space": Sample(b" ", "text/plain"),
    "json with whitespace around": Sample(b'\r\n\t {"a" : 1} \n', "application/json"),
    "json with a byte order mark": Sample(b'\xef\xbb\xbf{"a":1}', "application/json"),
    "json with half a surrogate pair": Sample(b'["\\ud800","\\udfff"]', "application/json"),
    "almost json": Sample(b"{'a':1,}", "application/json"),
    "a form": Sample(b"a=1&b=%20&c=%C3%A9", "application/x-www-form-urlencoded"),
    "xml": Sample('<?xml version="1.0"?>\r\n<a b="é">&amp;</a>\n'.encode(), "application/xml; charset=utf-8"),
    "text with nul": Sample(b"a\0b\0", "text/plain"),
    "what looks like http": Sample(b"\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n0\r\n\r\n", "text/plain"),
    "every byte": Sample(bytes(range(256)), "application/octet-stream"),
    "every byte backwards, often": Sample(bytes(range(255, -1, -1)) * 300, "application/octet-stream"),
    "broken utf-8": Sample(b"\xc3\x28 \xe2\x82 \xf0\x28\x8c\x28 \xed\xa0\x80 \xff\xfe", "text/plain; charset=utf-8"),
    "utf-16": Sample('{"a":"é"}'.encode("utf-16"), "application/json; charset=utf-16"),
    "binary as large as allowed": Sample(bytes(range(256)) * 4096, "application/octet-stream"),
}
